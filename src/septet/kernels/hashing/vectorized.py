"""Co-neighbour encoding and deterministic writes in torch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor


def count_equal(rows: Tensor, row: Tensor, short: int) -> tuple[Tensor, Tensor]:
    """Number of equal, non-empty columns in the long and in the short table.

    Args:
        rows: rows of the sequence ``(B, L, W)``.
        row: row of one node ``(B, W)``.
        short: columns of the short table, the first ones.

    Returns:
        Long counts and short counts, each ``(B, L)`` uint8.
    """
    equal = rows == row.masked_fill(row == 0, -1).unsqueeze(1)
    width = rows.shape[-1]
    if short % 8 == 0 and width % 8 == 0:
        words = equal.view(torch.int64)
        return _count_bytes(words[..., short // 8 :]), _count_bytes(words[..., : short // 8])
    return equal[..., short:].sum(-1).to(torch.uint8), equal[..., :short].sum(-1).to(torch.uint8)


def _count_bytes(words: Tensor) -> Tensor:
    """Sum of all bytes 0/1 packed in int64 words: add the words, then the eight bytes of the sum (at most 255)."""
    lanes = words.sum(-1).view(torch.uint8).view(*words.shape[:-1], 8)
    return lanes.sum(-1, dtype=torch.uint8)


def encode_rows(own: Tensor, other: Tensor, rows: Tensor, short: int, contact: Tensor) -> Tensor:
    """Five integers per position from gathered rows: ``own``, ``other`` ``(B, W)``, ``rows`` ``(B, L, W)``."""
    own_long, own_short = count_equal(rows, own, short)
    other_long, other_short = count_equal(rows, other, short)
    return torch.stack([own_long, other_long, own_short, other_short, contact.to(torch.uint8)], -1)


def encode_side(table: Tensor, short: int, own: Tensor, other: Tensor, sequence: Tensor) -> Tensor:
    """One side of a link, ``(B, L, 5)`` uint8; see :func:`septet.kernels.hashing.reference.encode_side`."""
    contact = sequence == other.unsqueeze(1)
    return encode_rows(table[own], table[other], table[sequence], short, contact)


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
