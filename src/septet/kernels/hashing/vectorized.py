"""Co-neighbour encoding and deterministic writes in torch, on any device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def count_equal(rows: Tensor, row: Tensor, short: int) -> tuple[Tensor, Tensor]:
    """Number of equal, non-empty columns in the long and in the short table.

    Args:
        rows: rows of the sequence ``(..., L, W)``.
        row: row of one node ``(..., W)`` with -1 for an empty column, so that none equals another.
        short: columns of the short table, the first ones.

    Returns:
        Long counts and short counts, each ``(..., L)`` uint8.
    """
    equal = _equal(rows, row.unsqueeze(-2))
    width = rows.shape[-1]
    if short % 8 == 0 and width % 8 == 0:
        words = equal.view(torch.int64)
        return _count_bytes(words[..., short // 8 :]), _count_bytes(words[..., : short // 8])
    return equal[..., short:].sum(-1).to(torch.uint8), equal[..., :short].sum(-1).to(torch.uint8)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """``a == b``; numpy on the CPU, which compares short broadcast rows three times as fast."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.equal(a.numpy(), b.numpy()))
    return a == b


def _count_bytes(words: Tensor) -> Tensor:
    """Sum of all bytes 0/1 packed in int64 words: add the words, then the eight bytes of the sum (at most 255)."""
    lanes = words.sum(-1).view(torch.uint8).view(*words.shape[:-1], 8)
    return lanes.sum(-1, dtype=torch.uint8)


def encode_rows(own: Tensor, other: Tensor, rows: Tensor, short: int, contact: Tensor) -> Tensor:
    """Five integers per position from gathered rows.

    Args:
        own: row of the side's node ``(..., W)``, -1 for empty columns.
        other: row of the other node, likewise.
        rows: rows of the side's sequence ``(..., L, W)``.
        short: columns of the short table.
        contact: whether a position is the other node ``(..., L)``; leading dimensions of size 1 are broadcast to its.

    Returns:
        uint8 ``(..., L, 5)``.
    """
    own_long, own_short = count_equal(rows, own, short)
    other_long, other_short = count_equal(rows, other, short)
    counts = [own_long, other_long, own_short, other_short]
    return torch.stack([*(c.expand_as(contact) for c in counts), contact.to(torch.uint8)], -1)


def encode(
    table: Tensor, short: int, src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Both sides of links, ``(B, Ls, 5)`` and ``(B, Ld, 5)``; see :meth:`HashNeighborMemory.encode`."""
    u, v = (table[ends].masked_fill_(table[ends] == 0, -1) for ends in (src, dst))
    return (
        encode_rows(u, v, table[src_ids], short, src_ids == dst.unsqueeze(1)),
        encode_rows(v, u, table[dst_ids], short, dst_ids == src.unsqueeze(1)),
    )


def write_list(src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """Rows and ids of all writes of a flush, flat, in the order in which they count (section 3.3)."""
    u, v = src.unsqueeze(1).expand_as(dst_ids), dst.unsqueeze(1).expand_as(src_ids)
    rows, ids = [u, v, src_ids, dst_ids], [dst_ids, src_ids, v, u]
    if order == "phase":
        return torch.cat([r.flatten() for r in rows]), torch.cat([x.flatten() for x in ids])
    return torch.cat(rows, 1).flatten(), torch.cat(ids, 1).flatten()


def write_ordered(table: Tensor, columns: Tensor, rows: Tensor, ids: Tensor) -> None:
    """Let the last write to every cell win, on any device and with any number of threads.

    Ids are >= 0, so ``-(order + 1)`` by scatter-min leaves the number of the last writer in each touched cell; every
    writer of the cell then stores that writer's id. Minimum commutes: neither threads nor atomics change the result,
    and the table needs no second array.
    """
    cells = rows.unsqueeze(1) * table.shape[1] + columns[ids]
    flat, cells = table.view(-1), cells.flatten()
    stamp = -torch.arange(1, len(ids) + 1, dtype=table.dtype, device=table.device)
    flat.scatter_reduce_(0, cells, stamp.repeat_interleave(2), "amin")
    flat[cells] = ids.to(table.dtype)[-1 - flat[cells].to(torch.int64)]


def update(
    table: Tensor,
    columns: Tensor,
    src: Tensor,
    dst: Tensor,
    src_ids: Tensor,
    dst_ids: Tensor,
    *,
    order: str,
    mask: bool,
) -> None:
    """Write one flush in place; see :func:`septet.kernels.hashing.reference.update`."""
    rows, ids = write_list(src, dst, src_ids, dst_ids, order)
    if mask:
        keep = (rows != 0) & (ids != 0)
        rows, ids = rows[keep], ids[keep]
    write_ordered(table, columns, rows, ids)
