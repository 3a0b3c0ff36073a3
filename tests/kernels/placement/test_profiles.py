"""Profile files: what is read, and what each kind of damage gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from septet.kernels.placement import duo_tokens, headkv_tokens, read_profile

TABLE = np.array([[3.0, 1.0], [2.0, 5.0]])


def test_npz_and_tsv_give_the_same_table(tmp_path):
    np.savez(tmp_path / "one.npz", tokens=TABLE)
    np.savez(tmp_path / "two.npz", first=TABLE + 1, second=TABLE)
    np.savetxt(tmp_path / "one.tsv", TABLE, delimiter="\t")
    for read in (
        read_profile(tmp_path / "one.npz"),
        read_profile(tmp_path / "two.npz", "second"),
        read_profile(str(tmp_path / "one.tsv")),
    ):
        assert read.dtype == torch.float64
        np.testing.assert_array_equal(read, TABLE)


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def _text(path, text):
    path.write_text(text)
    return path


def _cut(path):
    path.write_bytes(_npz(path.with_name("whole.npz"), x=TABLE).read_bytes()[:90])
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p / "absent.npz", "no head profile"),
        (lambda p: _text(p / "empty.tsv", ""), "is empty; write it anew"),
        (lambda p: _cut(p / "cut.npz"), "damaged"),
        (lambda p: _text(p / "text.npz", "no archive"), "head profile .*text.npz"),
        (lambda p: _text(p / "words.tsv", "1 2\n3 four\n"), "four"),
        (lambda p: _text(p / "ragged.tsv", "1 2\n3\n"), "head profile .*ragged.tsv"),
        (lambda p: _npz(p / "two.npz", a=TABLE, b=TABLE), "it holds a, b; name one"),
        (lambda p: _npz(p / "line.npz", a=TABLE[0]), r"got shape \(2,\)"),
        (lambda p: _npz(p / "none.npz", a=TABLE[:0]), r"got shape \(0, 2\)"),
        (lambda p: _npz(p / "nan.npz", a=TABLE * np.nan), "finite numbers"),
        (lambda p: _npz(p / "negative.npz", a=-TABLE), "layer 0, head 0 is -"),
        (lambda p: _npz(p / "text2.npz", a=TABLE.astype(str)), "a profile holds numbers"),
        (lambda p: _text(p / "comma.csv", "1,2"), "write it as .npz"),
    ],
)  # fmt: skip
def test_a_corrupt_file_is_named(write, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_profile(write(tmp_path))


def test_an_array_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="it holds tokens, not scores"):
        read_profile(_npz(tmp_path / "one.npz", tokens=TABLE), "scores")


def test_scores_become_tokens_of_the_asked_mean():
    tokens = headkv_tokens(torch.rand(4, 8, dtype=torch.float64), capacity=512)
    assert float(tokens.mean()) == pytest.approx(512, abs=2)
    assert float(tokens.min()) >= 8 + (504 - int(504 / 1.2)), "every head keeps the floor and the window"


def test_gates_become_full_and_streaming_heads():
    gates = torch.arange(8, dtype=torch.float64).view(2, 4)
    tokens = duo_tokens(gates, length=1000, streaming=64, sparsity=0.5)
    assert tokens.tolist() == [[64.0] * 4, [1000.0] * 4]
