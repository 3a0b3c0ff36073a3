"""Training links whose structure features are computed while the model trains, some chunks ahead of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.batches import LinkBatch, Links, joined

if TYPE_CHECKING:
    from septet.datamodules.temporal_graph.datamodule import TemporalGraphEvents

CHUNK_EVENTS = 16_384
"""Events whose features are computed at once."""
AHEAD = 2
"""Chunks that may wait for the model."""
T = TypeVar("T")


class Prefetch(Generic[T]):
    """An iterator that a background thread runs ahead of its reader.

    The items, their order and an exception reach the reader as they would without the thread.

    Args:
        source: makes the items; it runs in the thread alone.
        ahead: items that may wait.
    """

    def __init__(self, source: Iterator[T], ahead: int = AHEAD) -> None:
        self._items: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source,), daemon=True, name="structure-features")
        self._thread.start()

    def _run(self, source: Iterator[T]) -> None:
        """Make items until the end, an error or :meth:`close`."""
        try:
            for item in source:
                if not self._put((True, item)):
                    return
            self._put((False, None))
        except BaseException as error:
            self._put((False, error))

    def _put(self, entry: tuple[bool, T | BaseException | None]) -> bool:
        """Wait for room; False when nobody reads any more."""
        while not self._stop.is_set():
            try:
                self._items.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        more, item = self._items.get()
        if more:
            return item  # type: ignore[return-value]
        self._stop.set()
        if isinstance(item, BaseException):
            raise item
        raise StopIteration

    def close(self) -> None:
        """Let the thread end and wait for it."""
        self._stop.set()
        self._thread.join()


class OnlineLinks:
    """The links of one epoch, read from front to back; a step back or a jump ahead starts the stream anew.

    Args:
        chunks: ``(first position, links)`` of consecutive chunks, from the one that holds the given position on.
    """

    def __init__(self, chunks: Callable[[int], Iterator[tuple[int, Links]]]) -> None:
        self._chunks = chunks
        self._source: Prefetch[tuple[int, Links]] | None = None
        self._held: list[tuple[int, Links]] = []

    @property
    def _stop(self) -> int:
        """First position behind the chunks held."""
        return self._held[-1][0] + len(self._held[-1][1].time) if self._held else 0

    def batch(self, items: Tensor) -> LinkBatch:
        """The links at ascending positions ``items``."""
        first, last = int(items[0]), int(items[-1])
        if self._source is None or (self._held and first < self._held[0][0]):
            self.close()
            self._source = Prefetch(self._chunks(first))
        while self._stop <= last:
            self._held.append(next(self._source))
        while first >= self._held[0][0] + len(self._held[0][1].time):
            self._held.pop(0)
        parts = []
        for start, links in self._held:
            inside = items[(items >= start) & (items < start + len(links.time))]
            if len(inside):
                parts.append(links.batch(inside - start))
        return parts[0] if len(parts) == 1 else joined(parts)

    def close(self) -> None:
        """End the thread and drop what is held."""
        if self._source is not None:
            self._source.close()
        self._source, self._held = None, []


def training_chunks(data: TemporalGraphEvents, epoch: int, first: int) -> Iterator[tuple[int, Links]]:
    """Chunks of the training links of an epoch, equal to :meth:`TemporalGraphEvents.train_links` bit for bit.

    Chunks before the one that holds position ``first`` are only written into the memory, which is the generator's own:
    evaluation may use the data module's in the meantime.
    """
    states, stream, train = data.states, data.stream, data.splits.train
    assert states is not None
    memory, index = states.new_memory(), data.train_index
    targets, rng = data.train_targets(), np.random.default_rng((data.seed, epoch))
    for part in states.chunks(stream.time[train], CHUNK_EVENTS):
        at = train[part]
        drawn = targets[torch.from_numpy(rng.integers(0, len(targets), len(at)))]
        if part.stop <= first:
            states.stream_through(memory, index, at)
            continue
        pair_dst = torch.stack([stream.dst[at], drawn], 1)
        pair_src = stream.src[at].unsqueeze(1).expand_as(pair_dst).contiguous()
        features = states.stream_through(memory, index, at, pair_src, pair_dst)
        yield part.start, Links(pair_src, pair_dst, stream.time[at], at + 1, index, data.length, *features)
