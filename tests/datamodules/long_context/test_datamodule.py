import re

import pytest
import torch
from tests.support.paths import shared_data

from septet.datamodules.long_context import LongContextText
from septet.datamodules.long_context.lessons import lesson, varied
from septet.datamodules.long_context.recall import (
    CURRICULUM,
    IGNORE,
    QUESTION,
    evaluation_row,
    haystack_questions,
    repeated_pairs,
    training_batch,
)
from septet.datamodules.long_context.synthetic import needle_samples


def test_needle_batch():
    data = LongContextText("needle", context_length=[600, 900], depths=[0.2, 0.8], num_samples=3, batch_size=6)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["depth"].tolist() == pytest.approx([0.2, 0.8, 0.2] * 2)
    for row in range(6):
        mask = batch["attention_mask"][row].bool()
        assert mask[-1]
        assert not (mask[1:] < mask[:-1]).any()
        answer = batch["labels"][row] >= 0
        text = data.decode(batch["input_ids"][row][answer].tolist())
        assert text == f" {batch['answers'][row][0]}"
        prompt = data.decode(batch["input_ids"][row][mask & ~answer].tolist())
        assert 0.9 * batch["length"][row] <= len(prompt) <= batch["length"][row]
        assert prompt.count(batch["answers"][row][0]) == 1


def test_recall_rows_are_solvable():
    ids, labels = evaluation_row(0, 512, 4, seed=0)
    asked = torch.nonzero(labels >= 0).flatten()
    assert asked.tolist() == [502, 505, 508, 511]
    for position in asked.tolist():
        key, value = int(ids[position - 1]), int(ids[position])
        assert ids[position - 2] == QUESTION
        places = [i for i in range(0, 496, 2) if ids[i] == key]
        assert len(places) == 1
        assert ids[places[0] + 1] == value == labels[position]
        assert key in ids[496:500].tolist()


def test_recall_pairs_ask_only_for_keys_seen_before():
    ids, labels = repeated_pairs(CURRICULUM[0], torch.Generator().manual_seed(0))
    seen = {}
    for i in range(0, len(ids), 2):
        key, value = int(ids[i]), int(ids[i + 1])
        assert int(labels[i + 1]) == (value if key in seen else IGNORE)
        assert seen.setdefault(key, value) == value


def test_recall_without_the_list():
    ids, labels = haystack_questions(128, 16, 4, torch.Generator().manual_seed(0), listed=False)
    assert len(ids) == 128
    assert torch.nonzero(labels >= 0).flatten().tolist() == [118, 121, 124, 127]


def test_training_batches_are_a_pure_function():
    first, again = training_batch(3, 2, 5, seed=1), training_batch(3, 2, 5, seed=1)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert first["input_ids"].shape == (CURRICULUM[3].batch_size, CURRICULUM[3].length)
    assert not torch.equal(first["input_ids"], training_batch(3, 2, 6, seed=1)["input_ids"])


def test_curriculum_advances_and_is_saved():
    data = LongContextText("recall", steps_per_epoch=2)
    assert data.advance(0.9) is False
    assert data.stage == 0
    for _ in range(4):
        assert data.advance(0.999) is False
    assert data.stage == 4
    assert data.advance(0.9) is False
    assert data.advance(0.999) is True
    other = LongContextText("recall")
    other.load_state_dict(data.state_dict())
    assert other.stage == 4
    assert len(list(data.train_dataloader())) == 2


def test_needle_training_batches():
    data = LongContextText("needle", context_length=400, batch_size=3, steps_per_epoch=2)
    first, second = list(data.train_dataloader())
    assert first["input_ids"].shape[0] == 3
    assert not torch.equal(first["labels"][:, -10:], second["labels"][:, -10:])
    assert first["attention_mask"].all(), "blank lines level the rows"


def test_needle_curriculum_has_longer_texts_and_varied_ones():
    data = LongContextText(
        "needle", context_length=[400, 900], batch_size=2, haystack="pairs", needle="uuids", n_questions=3
    )
    assert data.advance(0.97) is False
    short = data.training_batch(0, 0)
    assert len(short["input_ids"]) == 4, "as many characters a batch as at the last length"
    assert data.advance(0.99) is False
    assert data.stage == 1
    assert data.training_batch(0, 0)["input_ids"].shape[1] > short["input_ids"].shape[1]
    kinds = [varied(200, 900, seed) for seed in range(50)]
    assert {kind.needle for kind in kinds} == {"numbers", "words", "uuids"}
    assert all(200 <= kind.length <= 900 and kind.n_pairs * 115 <= max(115, kind.length) for kind in kinds)
    assert data.advance(0.99) is False
    assert data.advance(0.999) is True


def test_a_lesson_labels_answers_and_what_follows_of_repeated_keys():
    sample = needle_samples(1, length=600, haystack="pairs", needle="uuids", seed=3)[0]
    prefix = "The {type} for {key} is"
    ids, labels = lesson(sample, sample.prompt, prefix, "uuids", 2, 0, lambda text: list(text.encode()))
    text = bytes(ids.tolist()).decode()
    first = f"{sample.prompt} The uuid for {sample.key} is {sample.answer}"
    assert text.startswith(f"{first}\nWhat is the special magic uuid for ")
    key, value = next(pair for pair in re.findall(r"for (\S+) is: (\S+)\.", sample.context) if pair[1] == text[-36:])
    assert key != sample.key
    shown = bytes(label if label >= 0 else 46 for label in labels.tolist()).decode()
    assert [piece for piece in re.split(r"\.+", shown) if piece] == [
        sample.key, f" {sample.answer}", key[8:], key, f" {value}"
    ]  # fmt: skip


def test_long_prompts_lose_their_middle_with_one_warning():
    root = shared_data("long_context/RULER/4096/niah_multikey_3.jsonl")
    data = LongContextText("ruler_jsonl", root=str(root), context_length=1000, num_samples=3, batch_size=3)
    with pytest.warns(UserWarning, match="its middle is cut") as caught:
        data.setup("test")
    assert len(caught) == 1
    row = data._rows["test"][0]
    text = data.decode(row["ids"].tolist())
    assert text.startswith("A special magic uuid")
    assert "mentioned in the provided text is" in text[-120:]
    assert int((row["labels"] < 0).sum()) == 1000


def test_longbench_rows():
    root = shared_data("long_context/LongBench/passage_retrieval_zh.jsonl")
    data = LongContextText("longbench_jsonl", root=str(root), context_length=100_000, num_samples=2)
    data.setup("test")
    assert [row["max_new_tokens"] for row in data._rows["test"]] == [32, 32]
    assert data._rows["test"][0]["answers"][0].startswith("段落")


def test_shakespeare_haystack():
    root = shared_data("long_context/tinyshakespeare.txt")
    data = LongContextText("needle", root=str(root), haystack="text", context_length=2000, num_samples=2)
    data.setup("test")
    assert data.num_test_rows == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "chess"}, "choose one of recall, needle, ruler_jsonl, longbench_jsonl"),
        ({"haystack": "sand"}, "choose one of noise, pairs, text"),
        ({"needle": "pins"}, "choose one of numbers"),
        ({"context_length": []}, "must be one or more"),
        ({"tokenizer": "nowhere/at/all", "task": "needle"}, "is not a folder"),
        ({"task": "ruler_jsonl"}, "needs root"),
        ({"task": "needle", "haystack": "text", "root": "gone.txt"}, "gone.txt does not exist"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LongContextText(**options).setup("test")


def test_files_are_not_for_training():
    with pytest.raises(ValueError, match="is for evaluation"):
        LongContextText("ruler_jsonl", root="x").train_dataloader()
