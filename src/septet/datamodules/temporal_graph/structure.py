"""The state life cycle of the hash memory over the parts of a split; nothing here depends on weights."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.columns import load_array
from septet.datamodules.temporal_graph.events import EventStream
from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex, group_offsets, structure_pass
from septet.kernels.hashing.memory import check_order
from septet.kernels.hashing.slots import check_kind
from septet.kernels.hashing.structure import check_granularity

CHUNK_POSITIONS = 1_300_000
"""Sequence positions (events x columns x L) looked up at once."""
LARGE_TABLE = 1 << 30
"""Bytes from which copies of the table go to the cache folder."""


@dataclass
class StructureSpec:
    """How structure features are computed; a checkpoint stores it, not the tables.

    Attributes:
        length: L, sequence length including the node itself.
        long: slots of the long table, 1..255.
        short: slots of the short table; default ``long // 4``.
        kind: hash, ``mixed`` or ``released``.
        padding: ``mask`` or ``node``.
        granularity: ``timestamp`` (ties never see each other), ``event``, or a number of events.
        order: write order inside a group, ``event`` or ``phase``.
    """

    length: int = 10
    long: int = 64
    short: int | None = None
    kind: Literal["mixed", "released"] = "mixed"
    padding: Literal["mask", "node"] = "mask"
    granularity: str | int = "timestamp"
    order: Literal["event", "phase"] = "event"

    def __post_init__(self) -> None:
        if isinstance(self.granularity, str) and self.granularity.strip().isdecimal():
            self.granularity = int(self.granularity)  # a command line hands on text

    def check(self) -> None:
        """Raise ValueError for a value that no pass accepts."""
        if self.length < 1:
            raise ValueError(f"structure.length={self.length} is below 1: the node itself takes one position")
        if not 1 <= self.long <= 255:
            raise ValueError(f"structure.long={self.long} is outside 1..255: counts are stored as uint8")
        if self.padding not in ("mask", "node"):
            raise ValueError(f"structure.padding={self.padding!r}: choose 'mask' or 'node'")
        check_kind(self.kind)
        check_order(self.order)
        check_granularity(self.granularity)

    @classmethod
    def released(cls, length: int = 10, long: int = 64) -> StructureSpec:
        """The half of the ``released`` preset that belongs to the data."""
        return cls(length, long, None, "released", "node", 200, "phase")

    def halves(self) -> str:
        """``fixed``, ``released`` or ``mixed halves``: which preset the values amount to."""
        values = (self.kind, self.padding, self.granularity, self.order)
        if values == ("released", "node", 200, "phase"):
            return "released"
        return "fixed" if values == ("mixed", "mask", "timestamp", "event") else "ablation"


Features = tuple[Tensor, Tensor]


class StructureStates:
    """The memory and its two saved states: A after training, B after validation.

    Args:
        stream: the events.
        spec: the structure settings.
        train: positions of the training events.
        val: positions of the validation events.
        train_index: neighbour index of the training events alone.
        full_index: neighbour index of all events.
        cache_dir: folder of memory-mapped features, or None for main memory.
    """

    def __init__(
        self,
        stream: EventStream,
        spec: StructureSpec,
        train: Tensor,
        val: Tensor,
        train_index: TemporalNeighborIndex,
        full_index: TemporalNeighborIndex,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.stream, self.spec = stream, spec
        self.train, self.val = train, val
        self.train_index, self.full_index = train_index, full_index
        self.memory = self.new_memory()
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._states: dict[str, Tensor] = {}

    def new_memory(self) -> HashNeighborMemory:
        """An empty memory of the settings."""
        spec = self.spec
        return HashNeighborMemory(self.stream.nodes, spec.long, spec.short, spec.kind, spec.padding)

    def train_features(self, query_src: Tensor, query_dst: Tensor) -> Features:
        """Features of the training events and their negatives ``(E, Q)``, from an empty memory; leaves state A."""
        self.memory.reset()
        features = self._pass(self.train_index, self.train, query_src, query_dst)
        if "A" not in self._states:
            self._keep("A")
        return features

    def restore(self, state: str) -> None:
        """Put the memory into state ``A`` or ``B``, replaying what has not been seen yet."""
        if state not in self._states:
            self._replay(state)
        self.memory.restore(self._states[state])

    def _replay(self, state: str) -> None:
        """Stream the training events, and for B the validation events, asking nothing else."""
        if state == "A":
            self.memory.reset()
            self._pass(self.train_index, self.train)
        else:
            self.restore("A")
            self._pass(self.full_index, self.val)
        self._keep(state)

    def _keep(self, state: str) -> None:
        """A copy of the table; a large one in an unnamed file of the cache folder, which vanishes with the process."""
        table = self.memory.table
        if self.cache_dir is None or table.numel() * table.element_size() < LARGE_TABLE:
            self._states[state] = self.memory.snapshot()
            return
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.cache_dir) as file:
            mapped = np.memmap(file, dtype=np.int32, mode="w+", shape=tuple(table.shape))
        mapped[:] = table.numpy()
        self._states[state] = torch.from_numpy(mapped)

    def evaluation_features(
        self, state: str, positions: Tensor, query_src: Tensor, query_dst: Tensor, key: str = ""
    ) -> Features:
        """Features of events at ``positions`` and their negatives, streamed from ``state`` with the full index.

        Args:
            state: ``A`` or ``B``.
            positions: events to stream.
            query_src: asked sources ``(E, Q)``.
            query_dst: asked destinations ``(E, Q)``.
            key: name of the cache entry; empty for none.
        """
        cached = self._cache_path(key, query_src, query_dst) if key and self.cache_dir else None
        if cached is not None and cached.with_suffix(".dst.npy").exists():
            try:
                return _open(cached)
            except (ValueError, FileNotFoundError) as error:
                warnings.warn(f"{error}; the features are computed anew", UserWarning, stacklevel=2)
        self.restore(state)
        out = None if cached is None else _create(cached, (*query_src.shape, self.spec.length, 5))
        features = self._pass(self.full_index, positions, query_src, query_dst, out)
        return features if cached is None else _finish(cached)

    def stream_events(self, start: int, stop: int) -> None:
        """Write the events ``start:stop`` of the stream into the memory, asking nothing."""
        if stop > start:
            self._pass(self.full_index, torch.arange(start, stop))

    def _pass(
        self,
        index: TemporalNeighborIndex,
        positions: Tensor,
        query_src: Tensor | None = None,
        query_dst: Tensor | None = None,
        out: Features | None = None,
    ) -> Features:
        """Stream events through the memory in chunks of whole groups; features of the asked pairs into ``out``."""
        columns = 1 if query_src is None else query_src.shape[1]
        if out is None:
            shape = (len(positions) if query_src is not None else 0, columns, self.spec.length, 5)
            out = torch.empty(shape, dtype=torch.uint8), torch.empty(shape, dtype=torch.uint8)
        step = max(1024, CHUNK_POSITIONS // (columns * self.spec.length))
        for part in self.chunks(self.stream.time[positions], step):
            asked = (None, None) if query_src is None or query_dst is None else (query_src[part], query_dst[part])
            features = self.stream_through(self.memory, index, positions[part], *asked)
            if query_src is not None:
                out[0][part], out[1][part] = features
        return out

    def stream_through(
        self,
        memory: HashNeighborMemory,
        index: TemporalNeighborIndex,
        at: Tensor,
        query_src: Tensor | None = None,
        query_dst: Tensor | None = None,
    ) -> Features:
        """Read the asked pairs ``(E, Q)`` and write the events at positions ``at``, whole groups, into ``memory``."""
        src, dst, time = (c[at] for c in (self.stream.src, self.stream.dst, self.stream.time))
        features = structure_pass(
            memory, index, src, dst, time,
            src.unsqueeze(1) if query_src is None else query_src, dst.unsqueeze(1) if query_dst is None else query_dst,
            length=self.spec.length, granularity=self.spec.granularity, order=self.spec.order,  # type: ignore[arg-type]
            ids_only=True,
        )  # fmt: skip
        return features.src_feat, features.dst_feat

    def chunks(self, time: Tensor, step: int) -> list[slice]:
        """Slices of whole groups, about ``step`` events each."""
        offsets = group_offsets(time, self.spec.granularity)  # type: ignore[arg-type]
        targets = torch.arange(step, len(time) + step, step)
        bounds = offsets[torch.searchsorted(offsets, targets).clamp(max=len(offsets) - 1)]
        cuts = [0, *torch.unique(bounds).tolist()]
        return [slice(a, b) for a, b in pairwise(cuts)]

    def _cache_path(self, key: str, query_src: Tensor, query_dst: Tensor) -> Path:
        """File stem named by everything the features depend on."""
        digest = hashlib.blake2b(json.dumps(asdict(self.spec), sort_keys=True).encode(), digest_size=16)
        for array in (self.stream.src, self.stream.dst, self.stream.time, self.train, self.val, query_src, query_dst):
            digest.update(array.contiguous().numpy().data)
        assert self.cache_dir is not None
        return self.cache_dir / f"{self.stream.name or 'stream'}-{key}-{digest.hexdigest()}.npy"


def check_cache_dir(folder: str | Path) -> None:
    """Make the cache folder; raise ValueError where it cannot be made or written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache_dir {folder}: {error.strerror}; give a folder of your own") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cache_dir {folder} cannot be written: give a folder of your own")


SIDES = (".src.npy", ".dst.npy")


def _create(path: Path, shape: tuple[int, ...]) -> Features:
    """Both sides as memory-mapped files still to be filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [np.lib.format.open_memmap(_part(path, s), mode="w+", dtype=np.uint8, shape=shape) for s in SIDES]
    return torch.from_numpy(files[0]), torch.from_numpy(files[1])


def _part(path: Path, suffix: str) -> Path:
    """Name of a file that is not whole yet."""
    return path.with_suffix(suffix + ".part")


def _finish(path: Path) -> Features:
    """Name both files as whole; the second one appears last and marks the entry as complete."""
    for suffix in SIDES:
        _part(path, suffix).replace(path.with_suffix(suffix))
    return _open(path)


def _open(path: Path) -> Features:
    """Both sides memory-mapped (copy on write: the cache itself is never changed)."""
    src, dst = (torch.from_numpy(load_array(path.with_suffix(s), "c")) for s in SIDES)
    return src, dst
