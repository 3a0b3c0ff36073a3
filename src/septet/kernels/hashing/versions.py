"""Many small groups at once: the torch backend of the structure pass, exact without a loop over groups.

A block of events holds hundreds of groups, often of one event each. Every row that the block writes gets one version
per writing group; a running maximum over the versions of a row turns "last writer of the cell in this group" into "last
writer so far". A read at group g then takes the latest version older than g, or the table where there is none. All
steps are sorts, scatters and scans, so a GPU runs tie-safe memory at the speed of large batches.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from septet.kernels.hashing.stream import Stream, alive, run_groups
from septet.kernels.hashing.vectorized import encode_rows, write_list

if TYPE_CHECKING:
    from septet.kernels.hashing.memory import HashNeighborMemory

PLAIN_GROUP = 64
"""Mean events per group from which the plain group loop is the faster one."""


class Versions(NamedTuple):
    """Contents of the written rows: ``key`` = row * G + group, sorted, and ``row`` ``(V,)``; ``ids`` ``(V, W)``."""

    key: Tensor
    row: Tensor
    ids: Tensor


def run(memory: HashNeighborMemory, stream: Stream, order: str) -> tuple[Tensor, Tensor]:
    """Features ``(E, Q, L, 5)`` of both sides; the memory ends as after the last group."""
    groups = len(stream.offsets) - 1
    if stream.write_src_ids is None:
        total = len(stream.src)
        bounds = torch.tensor([*range(0, total, 1024), total], device=stream.src.device)
        return run_groups(memory, stream._replace(offsets=bounds), order)
    if groups <= 1 or len(stream.src) >= PLAIN_GROUP * groups:
        return run_groups(memory, stream, order)
    src_feat = torch.zeros(*stream.src_ids.shape, 5, dtype=torch.uint8, device=stream.src.device)
    dst_feat = torch.zeros_like(src_feat)
    group = torch.arange(groups, device=stream.src.device).repeat_interleave(stream.offsets.diff())
    for start, stop in _blocks(stream.offsets, 512 if stream.src.device.type == "cpu" else 32_768):
        part = stream.events(start, stop)
        local = group[start:stop] - group[start]
        encoded = _run_block(memory, part, local, order)
        src_feat[start:stop], dst_feat[start:stop] = encoded
    return src_feat, dst_feat


def _blocks(offsets: Tensor, events: int) -> list[tuple[int, int]]:
    """Runs of whole groups of about ``events`` events."""
    total = int(offsets[-1])
    cuts = torch.searchsorted(offsets, torch.arange(events, total + events, events, device=offsets.device))
    bounds = torch.unique(torch.cat([offsets[:1], offsets[cuts.clamp(max=len(offsets) - 1)]])).tolist()
    return list(pairwise(bounds))


def _run_block(memory: HashNeighborMemory, part: Stream, group: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """Encode a block of groups against the versions of its rows, then leave the last versions in the table."""
    groups = int(group[-1]) + 1
    versions = _versions(memory, part, group, groups, order)
    src_rows = _read(memory.table, versions, part.src_ids, group, groups)
    dst_rows = _read(memory.table, versions, part.dst_ids, group, groups)
    own, other = src_rows[:, 0], dst_rows[:, 0]
    src_ids, dst_ids = part.src_ids.flatten(0, 1), part.dst_ids.flatten(0, 1)
    src = encode_rows(own, other, src_rows, memory.short, src_ids == part.query_dst.reshape(-1, 1))
    dst = encode_rows(other, own, dst_rows, memory.short, dst_ids == part.query_src.reshape(-1, 1))
    length = part.src_ids.shape[2]
    src *= alive(part.src_len.flatten(), length).unsqueeze(-1)
    dst *= alive(part.dst_len.flatten(), length).unsqueeze(-1)
    last = torch.ones_like(versions.row, dtype=torch.bool)
    last[:-1] = versions.row[1:] != versions.row[:-1]
    memory.table[versions.row[last]] = versions.ids[last]
    shape = (*part.src_ids.shape, 5)
    return src.view(shape), dst.view(shape)


def _writes(memory: HashNeighborMemory, part: Stream, group: Tensor, order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, ids and groups of the block's live writes in the order in which they count."""
    assert part.write_src_ids is not None
    assert part.write_dst_ids is not None
    assert part.write_src_len is not None
    assert part.write_dst_len is not None
    length = part.write_src_ids.shape[1]
    live = alive(part.write_dst_len, length), alive(part.write_src_len, length)
    rows, ids = write_list(part.src, part.dst, part.write_src_ids, part.write_dst_ids, order)
    phases = [live[0], live[1], live[1], live[0]]
    each = group.unsqueeze(1).expand_as(live[0])
    if order == "phase":
        keep, of = torch.cat([p.flatten() for p in phases]), torch.cat([each.flatten()] * 4)
        by_group = torch.sort(of, stable=True).indices
        rows, ids, keep, of = rows[by_group], ids[by_group], keep[by_group], of[by_group]
    else:
        keep, of = torch.cat(phases, 1).flatten(), torch.cat([each] * 4, 1).flatten()
    if memory.padding == "mask":
        keep = keep & (rows != 0) & (ids != 0)
    return rows[keep], ids[keep], of[keep]


def _versions(memory: HashNeighborMemory, part: Stream, group: Tensor, groups: int, order: str) -> Versions:
    """One version per written row and writing group, each holding all earlier writes of its row."""
    rows, ids, of = _writes(memory, part, group, order)
    key, version = torch.unique(rows * groups + of, return_inverse=True)
    row, width = key // groups, memory.table.shape[1]
    writer = torch.zeros(len(key) * width, dtype=torch.int64, device=key.device)
    cells = (version.unsqueeze(1) * width + memory.columns[ids]).flatten()
    number = torch.arange(1, len(ids) + 1, device=key.device).repeat_interleave(2)
    writer.scatter_reduce_(0, cells, number, "amax")
    segment = torch.zeros_like(row)
    segment[1:] = (row[1:] != row[:-1]).cumsum(0)
    floor = (segment * (len(ids) + 1)).unsqueeze(1)
    writer = _running_max(writer.view(-1, width) + floor, segment) - floor
    values = torch.cat([ids.new_zeros(1), ids]).to(memory.table.dtype)[writer]
    return Versions(key, row, torch.where(writer == 0, memory.table[row], values))


def _running_max(x: Tensor, segment: Tensor) -> Tensor:
    """Running maximum along dimension 0, where no value of a segment reaches the next one's.

    numpy on the CPU. On a GPU a scan over few columns would run on few threads, so maxima of doubled reach are taken
    over the whole matrix, as often as the longest segment needs.
    """
    if x.device.type == "cpu":
        return torch.from_numpy(np.maximum.accumulate(x.numpy(), axis=0))
    longest, reach = int(torch.unique_consecutive(segment, return_counts=True)[1].max()), 1
    while reach < longest:
        x = torch.cat([x[:reach], torch.maximum(x[reach:], x[:-reach])])
        reach *= 2
    return x


def _read(table: Tensor, versions: Versions, nodes: Tensor, group: Tensor, groups: int) -> Tensor:
    """Rows ``(E*Q, L, W)`` of ``nodes`` ``(E, Q, L)`` as they stand before each event's group."""
    position = torch.searchsorted(versions.key, nodes * groups + group.view(-1, 1, 1)) - 1
    length, nodes, position = nodes.shape[2], nodes.flatten(), position.flatten()
    rows = table[nodes]
    if len(versions.key):
        written = (position >= 0) & (versions.row[position.clamp(min=0)] == nodes)
        rows[written] = versions.ids[position[written]]
    return rows.view(-1, length, table.shape[1])
