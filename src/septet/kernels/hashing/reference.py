"""Co-neighbour hash memory, the readable specification (CNE-N, KDD 2024, arXiv 2407.20871, section 3).

One write at a time, Python integers, no vectorisation: every faster backend must agree with this file bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_OFFSET = {"short": 0x9E3779B97F4A7C15, "long": 0x3C6EF372FE94F82A}


def hash_mixed(x: int, table: str) -> int:
    """SplitMix64 finaliser of ``x + k``: the upper 31 bits of the mixed word."""
    z = (x + _OFFSET[table]) & _MASK64
    z = ((z ^ (z >> 30)) * _MULTIPLIER_1) & _MASK64
    z = ((z ^ (z >> 27)) * _MULTIPLIER_2) & _MASK64
    return (z ^ (z >> 31)) >> 33


def hash_released(x: int, table: str) -> int:
    """The released hash: a polynomial was meant, but the caret of Python is XOR."""
    a = 1 if table == "short" else 2
    return ((a + 1) * x) ^ (x + 3 * (a + 1)) ^ (5 * (a + 3))


def slot(x: int, size: int, table: str, kind: str) -> int:
    """Slot of node id ``x`` in a table of ``size`` slots."""
    return (hash_mixed if kind == "mixed" else hash_released)(x, table) % size


def columns_of(x: int, short: int, long: int, kind: str) -> tuple[int, int]:
    """Both columns that id ``x`` occupies in a row: one of the short table, one of the long table."""
    return slot(x, short, "short", kind), short + slot(x, long, "long", kind)


def encode_side(table: Tensor, short: int, own: Tensor, other: Tensor, sequence: Tensor) -> Tensor:
    """Five integers per position of one side of a link (section 3.2).

    Args:
        table: ids, ``(N+1, short+long)``.
        short: columns of the short table, the first ones.
        own: node whose sequence is encoded, ``(B,)``.
        other: the other end, ``(B,)``.
        sequence: ids of the sequence of ``own``, ``(B, L)``.

    Returns:
        ``(B, L, 5)`` uint8: long counts against own and other, short counts against own and other, contact indicator.
    """
    rows: list[list[int]] = table.tolist()

    def count(a: int, b: int, columns: range) -> int:
        return sum(rows[a][c] == rows[b][c] and rows[b][c] != 0 for c in columns)

    width = table.shape[1]
    in_short, in_long = range(short), range(short, width)
    out = torch.zeros(*sequence.shape, 5, dtype=torch.uint8)
    for b, (u, v, ids) in enumerate(zip(own.tolist(), other.tolist(), sequence.tolist(), strict=True)):
        for j, s in enumerate(ids):
            values = [count(u, s, in_long), count(v, s, in_long), count(u, s, in_short), count(v, s, in_short)]
            out[b, j] = torch.tensor([*values, int(s == v)], dtype=torch.uint8)
    return out


def write_list(src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor, order: str) -> list[tuple[int, int]]:
    """All ``(row, id)`` writes of a flush in the order in which they count (section 3.3, four phases)."""
    events = list(zip(src.tolist(), dst.tolist(), src_ids.tolist(), dst_ids.tolist(), strict=True))
    phases = [
        [[(u, d) for d in ids_d] for u, _, _, ids_d in events],
        [[(v, s) for s in ids_s] for _, v, ids_s, _ in events],
        [[(s, v) for s in ids_s] for _, v, ids_s, _ in events],
        [[(d, u) for d in ids_d] for u, _, _, ids_d in events],
    ]
    if order == "phase":
        return [write for phase in phases for event in phase for write in event]
    return [write for e in range(len(events)) for phase in phases for write in phase[e]]


def update(
    table: Tensor,
    short: int,
    kind: str,
    src: Tensor,
    dst: Tensor,
    src_ids: Tensor,
    dst_ids: Tensor,
    *,
    order: str,
    mask: bool,
) -> None:
    """Write the events of one flush into ``table`` in place; with ``mask`` id 0 neither writes nor is written."""
    long = table.shape[1] - short
    for row, x in write_list(src, dst, src_ids, dst_ids, order):
        if mask and (row == 0 or x == 0):
            continue
        for column in columns_of(x, short, long, kind):
            table[row, column] = x
