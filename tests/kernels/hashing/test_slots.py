"""Hash slots equal the golden values and the integer reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from septet.kernels.hashing import hash_slots, reference
from tests.kernels.hashing.streams import load


@pytest.mark.parametrize("size", [4, 32, 64])
def test_released_slots(size: int) -> None:
    data = load("hash_released.npz")
    short = hash_slots(data["ids"], size // 4, "short", "released")
    assert torch.equal(short, data[f"short_M{size}"].long())
    assert torch.equal(hash_slots(data["ids"], size, "long", "released"), data[f"long_M{size}"].long())


@pytest.mark.parametrize("size", [1, 4, 10, 16, 64, 100, 128])
@pytest.mark.parametrize("table", ["long", "short"])
def test_mixed_slots(size: int, table: str) -> None:
    data = load("hash_mixed.npz")
    slots = hash_slots(data["ids"], size, table, "mixed")
    assert slots.dtype == torch.int64
    assert torch.equal(slots, data[f"{table}_{size}"].long())


@given(st.integers(0, 2**40), st.integers(1, 255), st.sampled_from(["long", "short"]))
def test_equals_python_integers(x: int, size: int, table: str) -> None:
    for kind in ("mixed", "released"):
        assert hash_slots(torch.tensor([x]), size, table, kind).item() == reference.slot(x, size, table, kind)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 0}, "table size 0 is below 1"),
        ({"size": 8, "kind": "md5"}, "unknown hash kind 'md5'"),
        ({"size": 8, "table": "middle"}, "unknown table 'middle'"),
    ],
)
def test_bad_input(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hash_slots(torch.arange(3), **kwargs)
