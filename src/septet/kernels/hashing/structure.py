"""Structure features of a whole stream: a pure function of events and asked pairs (CNE-N, section 3)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from septet.kernels.hashing import native, versions
from septet.kernels.hashing.memory import HashNeighborMemory, WriteOrder, check_order
from septet.kernels.hashing.neighbors import (
    NodeSequence,
    TemporalNeighborIndex,
    check_ids,
    check_lengths,
    check_sorted,
)
from septet.kernels.hashing.stream import Stream, one_column, run_groups

Granularity = Literal["timestamp", "event"] | int


class StructureFeatures(NamedTuple):
    """Sequences and features of every asked pair.

    Attributes:
        src: sequences of the asked sources, arrays ``(E, Q, L)``, count ``(E, Q)``.
        dst: sequences of the asked destinations.
        src_feat: ``(E, Q, L, 5)`` uint8.
        dst_feat: ``(E, Q, L, 5)`` uint8.
    """

    src: NodeSequence
    dst: NodeSequence
    src_feat: Tensor
    dst_feat: Tensor


def check_granularity(granularity: object) -> None:
    """Raise ValueError unless granularity is ``"timestamp"``, ``"event"`` or an int >= 1."""
    if isinstance(granularity, int) and not isinstance(granularity, bool):
        if granularity < 1:
            raise ValueError(f"granularity {granularity} is below 1: give the events per group")
    elif granularity not in ("timestamp", "event"):
        raise ValueError(f"unknown granularity {granularity!r}: choose 'timestamp', 'event' or a number of events")


def group_offsets(time: Tensor, granularity: Granularity) -> Tensor:
    """Bounds of the groups in which a stream is read before it is written.

    Args:
        time: ``(E,)`` non-decreasing.
        granularity: ``"timestamp"`` (maximal runs of equal time), ``"event"``, or blocks of that many events.

    Returns:
        ``(G+1,)`` int64; group g holds events ``offsets[g]:offsets[g+1]``.
    """
    check_granularity(granularity)
    check_sorted(time)
    if granularity == "timestamp":
        runs = torch.unique_consecutive(time, return_counts=True)[1]
        return torch.cat([runs.new_zeros(1), runs.cumsum(0)])
    step = 1 if granularity == "event" else int(granularity)
    starts = torch.arange(0, len(time), step, device=time.device)
    return torch.cat([starts, starts.new_tensor([len(time)])])


def group_longest(count: Tensor, offsets: Tensor) -> Tensor:
    """The longest sequence of each event's group, per column: ``count`` ``(E, ...)`` to the same shape."""
    sizes = offsets.diff()
    group = torch.arange(len(sizes), device=count.device).repeat_interleave(sizes)
    longest = count.new_zeros(len(sizes), *count.shape[1:])
    index = group.view(-1, *[1] * (count.dim() - 1)).expand_as(count)
    return longest.scatter_reduce_(0, index, count, "amax")[group]


def sequences(
    index: TemporalNeighborIndex, nodes: Tensor, time: Tensor, length: int, *, ids_only: bool = False
) -> NodeSequence:
    """Sequences ``(E, Q, L)`` of nodes ``(E, Q)``, all columns of event e asked at ``time[e]``.

    Where all columns ask the same node, as the sources of sampled negatives do, it is looked up once.
    """
    shape = tuple(nodes.shape)
    if one_column(nodes):
        nodes = nodes[:, :1]
    times = time.repeat_interleave(nodes.shape[1])
    flat = index.sequence(nodes.reshape(-1), times, length, ids_only=ids_only)
    ids, times, edges = (a.view(*nodes.shape, a.shape[1]).expand(*shape, a.shape[1]) for a in flat[:3])
    return NodeSequence(ids, times, edges, flat.count.view(nodes.shape).expand(shape))


def structure_pass(
    memory: HashNeighborMemory,
    index: TemporalNeighborIndex,
    src: Tensor,
    dst: Tensor,
    time: Tensor,
    query_src: Tensor,
    query_dst: Tensor,
    *,
    length: int,
    granularity: Granularity = "timestamp",
    order: WriteOrder = "event",
    write: bool = True,
    ids_only: bool = False,
) -> StructureFeatures:
    """Stream groups of events: encode every asked pair of the group, then write the group's events.

    Args:
        memory: the table, read and (with ``write``) changed in place.
        index: neighbour index from which sequences are read.
        src: event sources ``(E,)``.
        dst: event destinations ``(E,)``.
        time: event times ``(E,)``, non-decreasing.
        query_src: asked sources ``(E, Q)``, asked at ``time[e]``.
        query_dst: asked destinations ``(E, Q)``.
        length: L, the node itself included.
        granularity: see :func:`group_offsets`; blocks count from the start of the call.
        order: order of the writes inside a group.
        write: False scores only.
        ids_only: leave times and edge ids of the sequences out where that is faster.

    Returns:
        Sequences and features; with ``memory.padding == "node"`` features stop at the group's longest sequence of that
        side and query column, as in the official code, and are 0 beyond.

    Raises:
        ValueError: unsorted times, unequal lengths, ids out of range, unknown granularity or order, ``length < 1``.
    """
    check_order(order)
    check_lengths(src=src, dst=dst, time=time, query_src=query_src, query_dst=query_dst)
    if query_src.shape != query_dst.shape or query_src.dim() != 2:
        shapes = f"{tuple(query_src.shape)} and {tuple(query_dst.shape)}"
        raise ValueError(f"asked pairs must be two (E, Q) tensors, got {shapes}")
    for name, ids in (("src", src), ("dst", dst), ("query_src", query_src), ("query_dst", query_dst)):
        check_ids(name, ids, memory.num_nodes)
    offsets = group_offsets(time, granularity)
    src_seq, dst_seq = (sequences(index, q, time, length, ids_only=ids_only) for q in (query_src, query_dst))
    stream = Stream(src, dst, query_src, query_dst, src_seq.ids, dst_seq.ids, src_seq.count, dst_seq.count, offsets)
    if write:
        stream = _with_writes(stream, index, time, length)
    if memory.padding == "node":
        stream = _trimmed(stream)
    run = {"reference": run_groups, "torch": versions.run, "native": native.run}[memory.engine()]
    return StructureFeatures(src_seq, dst_seq, *run(memory, stream, order))


def _with_writes(stream: Stream, index: TemporalNeighborIndex, time: Tensor, length: int) -> Stream:
    """Add the events' own sequences, taken from query column 0 where that is the event itself."""
    if bool((stream.query_src[:, 0] == stream.src).all()) and bool((stream.query_dst[:, 0] == stream.dst).all()):
        ids, count = (stream.src_ids[:, 0], stream.dst_ids[:, 0]), (stream.src_len[:, 0], stream.dst_len[:, 0])
    else:
        own = index.sequence(stream.src, time, length), index.sequence(stream.dst, time, length)
        ids, count = (own[0].ids, own[1].ids), (own[0].count, own[1].count)
    return stream._replace(write_src_ids=ids[0], write_dst_ids=ids[1], write_src_len=count[0], write_dst_len=count[1])


def _trimmed(stream: Stream) -> Stream:
    """Alive lengths of padding "node": the group's longest, per side and query column."""
    lengths = {
        name: getattr(stream, name)
        for name in ("src_len", "dst_len", "write_src_len", "write_dst_len")
        if getattr(stream, name) is not None
    }
    return stream._replace(**{name: group_longest(count, stream.offsets) for name, count in lengths.items()})


def co_occurrence(src_seq: Tensor, dst_seq: Tensor) -> tuple[Tensor, Tensor]:
    """How often each id of a sequence occurs in both sequences of its link (DyGFormer, NeurIPS 2023, section 4.1).

    Args:
        src_seq: ids ``(B, Ls)``, 0 is padding.
        dst_seq: ids ``(B, Ld)``.

    Returns:
        ``(B, Ls, 2)`` and ``(B, Ld, 2)`` int64: count in ``src_seq``, count in ``dst_seq``; 0 on padding.

    Raises:
        ValueError: the batch sizes differ.
    """
    check_lengths(src_seq=src_seq, dst_seq=dst_seq)

    def counts(ids: Tensor) -> Tensor:
        pair = [(ids.unsqueeze(2) == other.unsqueeze(1)).sum(2) for other in (src_seq, dst_seq)]
        return torch.stack(pair, 2) * (ids != 0).unsqueeze(2)

    return counts(src_seq), counts(dst_seq)
