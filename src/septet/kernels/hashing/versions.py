"""Many small groups at once: the torch backend of the structure pass, exact without a loop over groups.

A block of events holds hundreds of groups, often of one event each. Every node that the block touches gets a first
version, its row in the table, and one version per group that writes it. Cells are numbered version by version, so a
running maximum over the numbers of written cells says where each cell of a version was last written: "last writer in
this group" becomes "last writer so far". A read at group g takes the latest version older than g. All steps are sorts,
scatters and scans, so a GPU runs tie-safe memory at the speed of large batches.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from septet.kernels.hashing.stream import Stream, alive, one_column, run_groups
from septet.kernels.hashing.vectorized import encode_rows

if TYPE_CHECKING:
    from septet.kernels.hashing.memory import HashNeighborMemory

PLAIN_GROUP = 256
"""Mean events per group from which the plain group loop is the faster one."""
CPU_BLOCK, GPU_BLOCK = 1024, 32_768
"""Events taken together: small enough for a CPU's cache, large enough for a GPU."""
SCAN = 16
"""Rows of a block of the running maximum."""


class Nodes(NamedTuple):
    """Nodes of a block ``ids`` ``(S,)``, and their numbers where asked (``src``, ``dst``) and written (``write``)."""

    ids: Tensor
    src: Tensor
    dst: Tensor
    write: Tensor


class Versions(NamedTuple):
    """Contents of the touched rows over a block of G groups.

    Attributes:
        key: ``(V,)`` sorted, number of the node * (G + 1) + 1 + group; + 0 for the row as the table holds it.
        first: ``(S,)`` first version of each node.
        ids: ``(V, W)``.
    """

    key: Tensor
    first: Tensor
    ids: Tensor


def run(memory: HashNeighborMemory, stream: Stream, order: str) -> tuple[Tensor, Tensor]:
    """Features ``(E, Q, L, 5)`` of both sides; the memory ends as after the last group."""
    groups = len(stream.offsets) - 1
    device = stream.src.device
    if stream.write_src_ids is None:
        total = len(stream.src)
        bounds = torch.tensor([*range(0, total, 1024), total], device=device)
        return run_groups(memory, stream._replace(offsets=bounds), order)
    if groups <= 1 or len(stream.src) >= PLAIN_GROUP * groups:
        return run_groups(memory, stream, order)
    src_feat = torch.empty(*stream.src_ids.shape, 5, dtype=torch.uint8, device=device)
    dst_feat = torch.empty_like(src_feat)
    group = torch.arange(groups, device=device).repeat_interleave(stream.offsets.diff())
    scratch = torch.empty(memory.num_nodes + 1, dtype=torch.int32, device=device)
    shared = one_column(stream.query_src), one_column(stream.query_dst)
    for start, stop in _blocks(stream.offsets, CPU_BLOCK if device.type == "cpu" else GPU_BLOCK):
        part = stream.events(start, stop)
        encoded = _run_block(memory, part, group[start:stop] - group[start], order, scratch, shared)
        src_feat[start:stop], dst_feat[start:stop] = encoded
    return src_feat, dst_feat


def _blocks(offsets: Tensor, events: int) -> list[tuple[int, int]]:
    """Runs of whole groups of about ``events`` events."""
    total = int(offsets[-1])
    cuts = torch.searchsorted(offsets, torch.arange(events, total + events, events, device=offsets.device))
    bounds = torch.unique(torch.cat([offsets[:1], offsets[cuts.clamp(max=len(offsets) - 1)]])).tolist()
    return list(pairwise(bounds))


def _run_block(
    memory: HashNeighborMemory, part: Stream, group: Tensor, order: str, scratch: Tensor, shared: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Encode a block of groups against the versions of its rows, then leave the last versions in the table."""
    groups = int(group[-1]) + 1
    nodes = _nodes(part, scratch, shared)
    versions = _versions(memory, part, nodes, group, groups, order)
    rows = [_read(versions, asked, group, groups) for asked in (nodes.src, nodes.dst)]
    ends = [r[:, :, 0].masked_fill(r[:, :, 0] == 0, -1) for r in rows]
    src = encode_rows(ends[0], ends[1], rows[0], memory.short, part.src_ids == part.query_dst.unsqueeze(2))
    dst = encode_rows(ends[1], ends[0], rows[1], memory.short, part.dst_ids == part.query_src.unsqueeze(2))
    length = part.src_ids.shape[2]
    src *= alive(part.src_len, length).unsqueeze(-1)
    dst *= alive(part.dst_len, length).unsqueeze(-1)
    last = torch.cat([versions.first[1:], versions.first.new_tensor([len(versions.key)])]) - 1
    written = last > versions.first
    memory.table[nodes.ids[written]] = versions.ids[last[written]].to(memory.table.dtype)
    return src, dst


def _nodes(part: Stream, scratch: Tensor, shared: tuple[bool, bool]) -> Nodes:
    """Number the touched nodes by a scratch array: whoever stamps a node last stands for it."""
    assert part.write_src_ids is not None
    assert part.write_dst_ids is not None
    write = torch.cat([part.write_src_ids, part.write_dst_ids], 1)
    src, dst = (a[:, :1] if one else a for a, one in zip((part.src_ids, part.dst_ids), shared, strict=True))
    asked = torch.cat([src.flatten(), dst.flatten(), write.flatten()])
    number = torch.arange(len(asked), dtype=scratch.dtype, device=asked.device)
    scratch[asked] = number
    stands = scratch[asked]
    chosen = stands == number
    local = (chosen.cumsum(0) - 1)[stands]
    sizes = [src.numel(), dst.numel(), write.numel()]
    parts = [p.view_as(x) for p, x in zip(local.split(sizes), (src, dst, write), strict=True)]
    return Nodes(asked[chosen], *parts)


def _versions(
    memory: HashNeighborMemory, part: Stream, nodes: Nodes, group: Tensor, groups: int, order: str
) -> Versions:
    """One version per node of the block and one per written row and writing group, each holding all earlier writes."""
    assert part.write_src_ids is not None
    assert part.write_dst_ids is not None
    assert part.write_src_len is not None
    assert part.write_dst_len is not None
    length, width = part.write_src_ids.shape[1], memory.table.shape[1]
    live = [alive(part.write_src_len, length), alive(part.write_dst_len, length)]
    if memory.padding == "mask":
        live = [mask & (ids != 0) for mask, ids in zip(live, (part.write_src_ids, part.write_dst_ids), strict=True)]
    keep = torch.cat(live, 1)
    row = torch.cat([torch.arange(len(nodes.ids), device=group.device), nodes.write[keep]])
    of = torch.cat([row.new_zeros(len(nodes.ids)), group.unsqueeze(1).expand_as(keep)[keep] + 1])
    key, version = _distinct(row, row * (groups + 1) + of)
    first = version[: len(nodes.ids)]
    place = torch.zeros(keep.shape, dtype=version.dtype, device=keep.device)
    place[keep] = version[len(nodes.ids) :]
    cells, ids = _writes(memory, part, place, live, order)
    narrow = torch.int16 if memory.num_nodes < 2**15 else memory.table.dtype
    values = torch.empty(len(key), width, dtype=narrow, device=key.device)
    values[first] = memory.table[nodes.ids].to(narrow)
    source = torch.zeros((len(key) + -len(key) % SCAN) * width, dtype=torch.int32, device=key.device)
    stamp = torch.arange(1, len(ids) + 1, dtype=torch.int32, device=key.device).repeat_interleave(2)
    source.scatter_reduce_(0, cells, stamp, "amax")  # the last of several writers of a cell in one group
    values.view(-1)[cells] = ids.to(narrow)[source[cells] - 1]
    source[cells] = cells.to(torch.int32)
    source = source.view(-1, width)
    source[first] = (first.unsqueeze(1) * width + torch.arange(width, device=key.device)).to(torch.int32)
    newest = _running_max(source)[: len(key)].flatten()
    return Versions(key, first, values.view(-1).index_select(0, newest).view(-1, width))


def _distinct(row: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct keys and the place of each entry; entries of a row must come in the order of their keys."""
    order = _stable_order(row)
    ordered = key[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    place = torch.empty_like(order)
    place[order] = new.cumsum(0) - 1
    return ordered[new], place


def _stable_order(x: Tensor) -> Tensor:
    """Stable order of small numbers; on a CPU numpy's radix sort of 16-bit values where they fit."""
    if x.device.type == "cpu" and len(x) and int(x.max()) < 2**16:
        return torch.from_numpy(np.argsort(x.numpy().astype(np.uint16), kind="stable"))
    return torch.sort(x, stable=True).indices


def _writes(
    memory: HashNeighborMemory, part: Stream, place: Tensor, live: list[Tensor], order: str
) -> tuple[Tensor, Tensor]:
    """Cells (two per write, in the numbering of versions) and ids of the live writes, in the order in which they count.

    Only the order inside a group matters: groups never share a version. Position 0 of a sequence is the node itself.
    """
    assert part.write_src_ids is not None
    assert part.write_dst_ids is not None
    src, dst = place.chunk(2, 1)
    rows = [src[:, :1].expand_as(dst), dst[:, :1].expand_as(src), src, dst]
    u, v = part.src.unsqueeze(1).expand_as(src), part.dst.unsqueeze(1).expand_as(dst)
    ids = [part.write_dst_ids, part.write_src_ids, v, u]
    dim = 0 if order == "phase" else 1
    keep = torch.cat([live[1], live[0], live[0], live[1]], dim)
    row, written = torch.cat(rows, dim)[keep], torch.cat(ids, dim)[keep]
    return (row.unsqueeze(1) * memory.table.shape[1] + memory.columns[written]).flatten(), written


def _running_max(x: Tensor) -> Tensor:
    """Running maximum along dimension 0 of ``(V, W)``, in two passes over the matrix.

    All blocks of ``SCAN`` rows advance together; the last rows of the blocks are scanned likewise and carried on.
    """
    rows, width = x.shape
    if rows % SCAN:
        x = torch.nn.functional.pad(x, (0, 0, 0, SCAN - rows % SCAN))
    blocks = x.view(-1, SCAN, width)
    for j in range(1, SCAN):
        torch.maximum(blocks[:, j], blocks[:, j - 1], out=blocks[:, j])
    if len(blocks) > 1:
        carry = _running_max(blocks[:-1, -1].clone())
        torch.maximum(blocks[1:], carry.unsqueeze(1), out=blocks[1:])
    return x[:rows]


def _read(versions: Versions, nodes: Tensor, group: Tensor, groups: int) -> Tensor:
    """Rows ``(E, Q, L, W)`` of ``nodes`` ``(E, Q, L)`` as they stand before each event's group."""
    position = torch.searchsorted(versions.key, nodes * (groups + 1) + (group + 1).view(-1, 1, 1)) - 1
    return versions.ids.index_select(0, position.flatten()).view(*nodes.shape, -1)
