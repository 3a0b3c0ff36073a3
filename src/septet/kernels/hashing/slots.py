"""Hash of node ids to table slots (CNE-N, KDD 2024, section 3.1), vectorised in 64-bit integers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

HashKind = Literal["mixed", "released"]
TableName = Literal["long", "short"]

MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)
OFFSET = {"short": 0x9E3779B97F4A7C15 - (1 << 64), "long": 0x3C6EF372FE94F82A}


def _logical_shift(z: Tensor, bits: int) -> Tensor:
    """Unsigned right shift of int64 words."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def check_kind(kind: str) -> None:
    """Raise ValueError unless ``kind`` names a hash."""
    if kind not in ("mixed", "released"):
        raise ValueError(f"unknown hash kind {kind!r}: choose 'mixed' or 'released'")


def hash_slots(ids: Tensor, size: int, table: TableName = "long", kind: HashKind = "mixed") -> Tensor:
    """Slot of each id, ``h(x) mod size``.

    Args:
        ids: node ids >= 0, any shape, integer.
        size: number of slots, >= 1.
        table: ``"long"`` or ``"short"``: each has its own constant.
        kind: ``"mixed"`` (SplitMix64 finaliser) or ``"released"`` (the XOR of the official code).

    Returns:
        int64 slots in ``[0, size)``, same shape.

    Raises:
        ValueError: unknown ``table`` or ``kind``, ``size < 1``.
    """
    check_kind(kind)
    if table not in ("long", "short"):
        raise ValueError(f"unknown table {table!r}: choose 'long' or 'short'")
    if size < 1:
        raise ValueError(f"table size {size} is below 1")
    x = ids.to(torch.int64)
    if kind == "released":
        a = 1 if table == "short" else 2
        return (((a + 1) * x) ^ (x + 3 * (a + 1)) ^ (5 * (a + 3))) % size
    z = x + OFFSET[table]
    z = (z ^ _logical_shift(z, 30)) * MULTIPLIER_1
    z = (z ^ _logical_shift(z, 27)) * MULTIPLIER_2
    z = z ^ _logical_shift(z, 31)
    return _logical_shift(z, 33) % size


def slot_columns(num_nodes: int, short: int, long: int, kind: HashKind, device: torch.device) -> Tensor:
    """Columns of every id in a row, ``(num_nodes+1, 2)`` int16: short table first, then ``short +`` long slot."""
    out = torch.empty(num_nodes + 1, 2, dtype=torch.int16, device=device)
    for start in range(0, num_nodes + 1, 1 << 20):
        ids = torch.arange(start, min(num_nodes + 1, start + (1 << 20)), device=device)
        out[start : start + len(ids), 0] = hash_slots(ids, short, "short", kind).to(torch.int16)
        out[start : start + len(ids), 1] = (short + hash_slots(ids, long, "long", kind)).to(torch.int16)
    return out
