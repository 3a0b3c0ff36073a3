"""Batches of asked links, and the data set that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from septet.datamodules.resume import ResumableBatches, rank_and_world
from septet.kernels.hashing import NodeSequence, TemporalNeighborIndex


@dataclass
class LinkBatch:
    """Asked links of B events; column 0 is the event itself, the others are its K negatives.

    Attributes:
        pair_src: asked sources ``(B, 1+K)``.
        pair_dst: asked destinations ``(B, 1+K)``.
        time: ``(B,)`` time at which all columns are asked.
        event: ``(B,)`` edge ids of the events, 0 for a pair that is no event.
        src: sequences of the asked sources ``(B, 1+K, L)``.
        dst: sequences of the asked destinations.
        src_feat: ``(B, 1+K, L, 5)`` uint8, or None without structure.
        dst_feat: the same for the destinations.
    """

    pair_src: Tensor
    pair_dst: Tensor
    time: Tensor
    event: Tensor
    src: NodeSequence
    dst: NodeSequence
    src_feat: Tensor | None
    dst_feat: Tensor | None

    def __len__(self) -> int:
        return len(self.time)

    def to(self, device: torch.device | str) -> LinkBatch:
        """The batch on ``device``."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        def move_side(sequence: NodeSequence) -> NodeSequence:
            return NodeSequence(*(a.to(device, non_blocking=True) for a in sequence))

        return LinkBatch(
            self.pair_src.to(device),
            self.pair_dst.to(device),
            self.time.to(device),
            self.event.to(device),
            move_side(self.src),
            move_side(self.dst),
            move(self.src_feat),
            move(self.dst_feat),
        )


def joined(parts: list[LinkBatch]) -> LinkBatch:
    """Consecutive batches as one."""

    def cat(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        if isinstance(values[0], NodeSequence):
            return NodeSequence(*(torch.cat(columns) for columns in zip(*values, strict=True)))
        return None if values[0] is None else torch.cat(values)

    return LinkBatch(*(cat(field.name) for field in fields(LinkBatch)))


@dataclass
class Links:
    """Asked links of a whole part, with their features: what a :class:`LinkDataset` serves."""

    pair_src: Tensor
    pair_dst: Tensor
    time: Tensor
    event: Tensor
    index: TemporalNeighborIndex
    length: int
    src_feat: Tensor | None = None
    dst_feat: Tensor | None = None

    def batch(self, items: Tensor) -> LinkBatch:
        """The links at positions ``items``; sequences are looked up here, features were computed by the pass."""
        src, dst, time = self.pair_src[items], self.pair_dst[items], self.time[items]
        times = time.repeat_interleave(src.shape[1])

        def sequence(nodes: Tensor) -> NodeSequence:
            flat = self.index.sequence(nodes.flatten(), times, self.length)
            ids, then, edges = (a.view(*nodes.shape, self.length) for a in flat[:3])
            return NodeSequence(ids, then, edges, flat.count.view(nodes.shape))

        return LinkBatch(
            src,
            dst,
            time,
            self.event[items],
            sequence(src),
            sequence(dst),
            None if self.src_feat is None else self.src_feat[items],
            None if self.dst_feat is None else self.dst_feat[items],
        )


class Served(Protocol):
    """What a data set serves: :class:`Links`, or links made while they are read."""

    def batch(self, items: Tensor) -> LinkBatch:
        """The links at positions ``items``."""


class LinkDataset(Dataset[LinkBatch]):
    """Serves whole batches; links of training change with the epoch.

    Args:
        make: gives the links of an epoch; called again only when the epoch changes.
        size: number of events.
    """

    def __init__(self, make: Callable[[int], Served], size: int) -> None:
        self.make, self.size = make, size
        self.batches: ResumableBatches | None = None
        self._epoch = -1
        self._links: Served | None = None

    def __len__(self) -> int:
        return self.size

    @property
    def links(self) -> Served:
        """The links of the sampler's present epoch."""
        epoch = 0 if self.batches is None else self.batches.epoch
        if self._links is None or epoch != self._epoch:
            self.close()
            self._links, self._epoch = self.make(epoch), epoch
        return self._links

    def close(self) -> None:
        """End what still computes links of an earlier epoch."""
        close = getattr(self._links, "close", None)
        if close is not None:
            close()
        self._links = None

    def __getitem__(self, item: int) -> LinkBatch:
        return self.__getitems__([item])

    def __getitems__(self, items: list[int]) -> LinkBatch:
        """One batch for a list of positions (called by the DataLoader)."""
        return self.links.batch(torch.tensor(items))


class WholeBatches(Dataset[LinkBatch]):
    """Item i is the i-th batch of this rank: for ``predict``, where Lightning builds batch samplers anew.

    Args:
        links: all links.
        batch_size: links per batch.
    """

    def __init__(self, links: Links, batch_size: int) -> None:
        self.links = links
        rank, world = rank_and_world()
        self.items = torch.split(torch.arange(len(links.time)), batch_size)[rank::world]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> LinkBatch:
        return self.links.batch(self.items[item])


class EvaluationBatches(ResumableBatches):
    """Chronological batches; ranks take every world-th one and none is repeated, so metrics stay exact."""

    def __init__(self, num_items: int, batch_size: int) -> None:
        super().__init__(num_items, batch_size, shuffle=False)

    def _mine(self) -> list[list[int]]:
        rank, world = rank_and_world()
        return self.epoch_batches(0)[rank::world]
