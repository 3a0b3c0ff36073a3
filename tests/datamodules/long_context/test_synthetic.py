import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.paths import shared_data

from septet.datamodules.long_context import needle_samples
from septet.datamodules.long_context.synthetic import needle_line

TEXT = "Once upon a time there was a fox. It ran! Did it stop? Nobody knows. The hills were quiet and grey.\n" * 30


@settings(deadline=None, max_examples=60)
@given(
    st.integers(700, 6000),
    st.sampled_from(["noise", "pairs", "text"]),
    st.sampled_from(["numbers", "words", "uuids"]),
    st.one_of(st.none(), st.floats(0, 1)),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
def test_contract(length, haystack, needle, depth, n_pairs, seed):
    for sample in needle_samples(
        2, length=length, haystack=haystack, needle=needle, depth=depth, n_pairs=n_pairs, seed=seed, text=TEXT
    ):
        assert 0.9 * length <= len(sample.context) <= length
        assert sample.context.count(sample.answer) == 1
        line = needle_line(needle, sample.key, sample.answer)
        lines = sample.context.split("\n")
        at = lines.index(line)
        starts = sum(len(text) + 1 for text in lines[:at])
        longest = max(len(text) for text in lines) + 1
        assert abs(starts - sample.depth * length) <= max(2 * longest, 0.1 * length)
        assert depth is None or sample.depth == depth
        assert sample.prompt.split("\n")[1 : 1 + len(lines)] == lines
        assert sample.prompt.endswith(f"\n{sample.question}")
        assert sample.key in sample.question
        keys = [text.split(" for ")[1].split(" is: ")[0] for text in lines if text.startswith("One of the special")]
        assert len(keys) == len(set(keys))
        if haystack != "pairs":
            assert len(keys) == n_pairs


def test_a_sample_depends_on_seed_and_index_only():
    many, few = needle_samples(5, length=900, seed=3), needle_samples(2, length=900, seed=3)
    assert many[:2] == few
    assert needle_samples(1, length=900, seed=4)[0] != few[0]


def test_depths_in_turn():
    samples = needle_samples(5, length=2000, depth=[0.0, 1.0])
    assert [sample.depth for sample in samples] == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert samples[0].context.startswith("One of the special magic numbers")


def test_tinyshakespeare():
    text = shared_data("long_context/tinyshakespeare.txt").read_text()
    for sample in needle_samples(5, length=3000, haystack="text", text=text, depth=0.5):
        assert abs(sample.context.find("One of the special") / 3000 - 0.5) < 0.06


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"haystack": "sand"}, "unknown haystack 'sand'; choose one of noise, pairs, text"),
        ({"needle": "pins"}, "unknown needle 'pins'"),
        ({"depth": 1.5}, "depth 1.5"),
        ({"length": 50}, "longer than length = 50"),
        ({"haystack": "text"}, "needs text"),
        ({"n_pairs": 0}, "n_pairs = 0"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        needle_samples(1, **{"length": 900, **options})
