"""What a ``LongContextText`` refuses when it is made, and what it says about its tokens and answers."""

import pytest

from septet.datamodules.long_context import LongContextText


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "needle", "depths": []}, r"depths \[\] must be one or more numbers in \[0, 1\]"),
        ({"task": "needle", "depths": [0.5, 1.5]}, "must be one or more numbers in"),
        ({"num_samples": 0}, "num_samples = 0 must be at least 1"),
        ({"num_samples": -1}, "num_samples = -1 must be at least 1"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LongContextText(**options)


def test_largest_id(tmp_path):
    """What a model must know: a fixed vocabulary, also when a recall run predicts a user's text."""
    (tmp_path / "mine.txt").write_text("What is two plus two?")
    assert LongContextText("needle").largest_id == 257
    data = LongContextText("recall", prompts=str(tmp_path / "mine.txt"))
    assert data.largest_id == 97
    data.setup("predict")
    assert data.largest_id == 257


def test_answers_do_not_shorten_own_prompts(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "p", "answers": "42"}\n{"prompt": "q"}\n')
    for limit, expected in ((0, 64), (7, 7)):
        data = LongContextText("needle", prompts=str(tmp_path / "mine.jsonl"), max_new_tokens=limit)
        data.setup("predict")
        assert [row["max_new_tokens"] for row in data._rows["predict"]] == [expected] * 2
