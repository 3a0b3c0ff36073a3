"""Temporal neighbour index: the latest events of a node strictly before a time, for whole batches at once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from septet.kernels.hashing import native

SPARSE = 16
"""Largest ratio of ids to events for which one counter per id is kept."""


class NodeSequence(NamedTuple):
    """Padded sequences of neighbours, oldest first, left-aligned.

    Attributes:
        ids: node ids ``(..., L)`` int64, 0 where empty.
        time: time of each entry ``(..., L)`` in the stream's own type; position 0 of a sequence holds the query time.
        edge_id: edge id of each entry ``(..., L)`` int64; 0 at position 0 of a sequence and where empty.
        count: filled positions ``(...)`` int64.
    """

    ids: Tensor
    time: Tensor
    edge_id: Tensor
    count: Tensor  # type: ignore[assignment]


def check_sorted(time: Tensor) -> None:
    """Raise ValueError if times are NaN or decrease."""
    if time.is_floating_point() and bool(torch.isnan(time).any()):
        position = int(torch.isnan(time).nonzero()[0])
        raise ValueError(f"time {position} is NaN: remove or repair the event")
    if len(time) > 1 and bool((time[1:] < time[:-1]).any()):
        position = int((time[1:] < time[:-1]).nonzero()[0]) + 1
        pair = f"{time[position].item()} after {time[position - 1].item()}"
        raise ValueError(f"times decrease at event {position} ({pair}): sort by time, stable")


def check_ids(name: str, ids: Tensor, num_nodes: int, lowest: int = 1) -> None:
    """Raise ValueError if an id lies outside ``[lowest, num_nodes]``."""
    if ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < lowest:
        raise ValueError(f"{name} holds node id {low}: ids start at 1 (read 0-based files with id_base=0)")
    if high > num_nodes:
        raise ValueError(
            f"{name} holds node id {high}, above num_nodes={num_nodes}: raise num_nodes or compact the ids"
        )


def check_lengths(**columns: Tensor) -> None:
    """Raise ValueError unless all first dimensions agree."""
    if len({len(c) for c in columns.values()}) > 1:
        raise ValueError(f"unequal lengths: {', '.join(f'{n} {len(c)}' for n, c in columns.items())}")


class TemporalNeighborIndex:
    """Undirected index of a stream, sorted by node and then by stream order.

    Every event enters the list of both its ends; a self-event enters twice. A query is one binary search on the key
    ``node * R + position of the event`` (R = number of events + 1), so its cost does not grow with the node's degree.
    The index holds 12 bytes per entry; times and edge ids stay in the columns given, which may be memory-mapped.

    Args:
        src: sources ``(E,)``, ids from 1.
        dst: destinations ``(E,)``.
        time: non-decreasing times ``(E,)``, integer or float64.
        edge_id: ids ``(E,)``; default 1..E.
        num_nodes: largest id allowed; default the largest id present.
        backend: ``"auto"`` builds and looks up natively on a CPU where numba is installed; ``"torch"`` never does.

    Raises:
        ValueError: unequal lengths, unsorted or NaN times, ids outside ``1..num_nodes``.
    """

    starts: Tensor | None = None

    def __init__(
        self,
        src: Tensor,
        dst: Tensor,
        time: Tensor,
        edge_id: Tensor | None = None,
        num_nodes: int | None = None,
        backend: Literal["auto", "torch"] = "auto",
    ) -> None:
        check_lengths(src=src, dst=dst, time=time)
        check_sorted(time)
        if num_nodes is None:
            num_nodes = max(int(src.max()), int(dst.max())) if len(src) else 0
        check_ids("src", src, num_nodes)
        check_ids("dst", dst, num_nodes)
        if edge_id is not None:
            check_lengths(src=src, edge_id=edge_id)
            edge_id = edge_id.to(torch.int64)
        self.num_nodes, self.backend, self.radix = num_nodes, backend, len(src) + 1
        self.time, self.edge_id = time, edge_id
        dense = num_nodes <= SPARSE * len(src) + 1_000_000
        if backend != "torch" and dense and src.device.type == "cpu" and native.available():
            self.key, self.neighbor, self.starts = native.build_index(src, dst, num_nodes)
        else:
            self._build(src.to(torch.int64), dst.to(torch.int64))

    def _build(self, src: Tensor, dst: Tensor) -> None:
        """Sort the 2E entries by node, keeping the stream order inside a node."""
        node = torch.stack([src, dst], 1).flatten()
        event = torch.arange(len(src), device=src.device).repeat_interleave(2)
        self.key, order = torch.sort(node.mul_(self.radix).add_(event), stable=True)
        narrow = torch.int32 if self.num_nodes < 2**31 else torch.int64
        self.neighbor = torch.stack([dst, src], 1).flatten().to(narrow)[order]

    @property
    def device(self) -> torch.device:
        """Device of the index."""
        return self.key.device

    def to(self, device: torch.device | str) -> TemporalNeighborIndex:
        """A copy of the index on ``device``."""
        clone = object.__new__(TemporalNeighborIndex)
        clone.num_nodes, clone.radix, clone.backend = self.num_nodes, self.radix, self.backend
        for name in ("key", "neighbor", "time", "edge_id", "starts"):
            array = getattr(self, name)
            setattr(clone, name, None if array is None else array.to(device))
        return clone

    def memory_bytes(self) -> int:
        """Bytes of all arrays, the columns of times and edge ids included."""
        arrays = (self.key, self.neighbor, self.time, self.edge_id, self.starts)
        return sum(a.numel() * a.element_size() for a in arrays if a is not None)

    def degrees(self) -> Tensor:
        """Entries of every node ``(N+1,)``; a self-event counts twice."""
        nodes = torch.arange(self.num_nodes + 2, device=self.device)
        starts = torch.searchsorted(self.key, nodes * self.radix) if self.starts is None else self.starts
        return starts.diff()

    def _window(self, nodes: Tensor, times: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Positions ``(B, k)`` of the latest entries before ``times`` and their number ``(B,)``."""
        rank = torch.searchsorted(self.time, times)
        first = torch.searchsorted(self.key, nodes * self.radix)
        last = torch.searchsorted(self.key, nodes * self.radix + rank)
        count = (last - first).clamp_(max=k)
        return (last - count).unsqueeze(1) + torch.arange(k, device=self.device), count

    def recent(self, nodes: Tensor, times: Tensor, k: int) -> NodeSequence:
        """The ``k`` latest neighbours with time strictly below ``times``, without the node itself.

        Args:
            nodes: ``(B,)`` ids; 0 has no neighbours.
            times: ``(B,)`` query times.
            k: entries per node, >= 1.

        Returns:
            Sequences ``(B, k)``, oldest first.

        Raises:
            ValueError: ``k < 1`` or unequal lengths.
        """
        if k < 1:
            raise ValueError(f"{k} neighbours asked: the number must be at least 1")
        check_lengths(nodes=nodes, times=times)
        nodes = nodes.to(torch.int64)
        if len(self.key) == 0:
            empty = torch.zeros(len(nodes), k, dtype=torch.int64, device=self.device)
            return NodeSequence(empty, empty.to(self.time.dtype), empty.clone(), empty[:, 0].clone())
        position, count = self._window(nodes, times.to(self.time.dtype), k)
        filled = torch.arange(k, device=self.device) < count.unsqueeze(1)
        position = position.clamp_(max=len(self.key) - 1)
        event = self.key[position].remainder_(self.radix)
        edges = event + 1 if self.edge_id is None else self.edge_id[event]
        ids = self.neighbor[position].to(torch.int64)
        return NodeSequence(ids * filled, self.time[event] * filled, edges * filled, count)

    def sequence(self, nodes: Tensor, times: Tensor, length: int, *, ids_only: bool = False) -> NodeSequence:
        """Sequence ``[node, up to length-1 latest neighbours]`` (section 3.1); position 0 holds time ``times``.

        Args:
            nodes: ``(B,)`` ids.
            times: ``(B,)`` query times.
            length: L, the node itself included, >= 1.
            ids_only: leave times and edge ids out where that is faster (they come back empty, ``(B, 0)``).

        Returns:
            Sequences ``(B, L)``; ``count`` includes the node itself.

        Raises:
            ValueError: ``length < 1`` or unequal lengths.
        """
        if length < 1:
            raise ValueError(f"sequence length {length} is below 1 (the node itself takes one position)")
        check_lengths(nodes=nodes, times=times)
        nodes = nodes.to(torch.int64)
        if self.starts is not None and self.device.type == "cpu" and native.available():
            return NodeSequence(*native.sequence(self, nodes, times, length, ids_only=ids_only))
        own, here = nodes.unsqueeze(1), (nodes > 0).to(torch.int64)
        own_time = (times * here).to(self.time.dtype).unsqueeze(1)
        if length == 1:
            return NodeSequence(own, own_time, torch.zeros_like(own), here)
        past = self.recent(nodes, times, length - 1)
        return NodeSequence(
            torch.cat([own, past.ids], 1),
            torch.cat([own_time, past.time], 1),
            torch.cat([torch.zeros_like(own), past.edge_id], 1),
            past.count + here,
        )
