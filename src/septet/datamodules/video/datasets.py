"""Map-style data sets behind :class:`VideoClips`: simulated clips and windows of recorded ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from septet.datamodules.resume import ResumableBatches
from septet.datamodules.video.clips import Camera, ClipSample, last_start, window_start
from septet.datamodules.video.simulator import StreetSimulator


class Reader(Protocol):
    """What a source of recorded clips offers."""

    clips: list[str]
    skipped: list[str]

    def stamp(self, clip: str) -> str:
        """Another one where the files of the frames changed."""

    def check(self, clip: str) -> tuple[int, int]:
        """Decode everything; (H, W), or ValueError naming what is broken."""

    def camera(self, clip: str) -> Camera | None:
        """Intrinsics at the source's size."""

    def length(self, clip: str) -> int:
        """Number of source frames."""

    def motion(self, clip: str, start: int = 0, frames: int | None = None, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Actions ``(n, 2)`` and yaw ``(n,)``, float64, without decoding an image."""

    def read(
        self, clip: str, start: int = 0, frames: int | None = None, stride: int = 1, size: tuple[int, int] | None = None
    ) -> ClipSample:
        """Frames and motions of a window."""


class EpochBatches(ResumableBatches):
    """Yields (epoch, index), so that windows are a function of (seed, epoch, index) in any worker."""

    def epoch_batches(self, epoch: int) -> list[list[Any]]:
        """Batches of one epoch."""
        return [[(epoch, i) for i in batch] for batch in super().epoch_batches(epoch)]


class SimulatedClips(Dataset[ClipSample]):
    """Clips rendered at first use and kept in memory (uint8), or in one file of ``cache_dir``.

    Args:
        simulator: renders them.
        count: number of clips.
        frames: per clip.
        first_seed: clip i has the seed ``first_seed + i``.
        cache_dir: keep the rendered clips there.
    """

    def __init__(
        self, simulator: StreetSimulator, count: int, frames: int, first_seed: int, cache_dir: Path | None = None
    ) -> None:
        self.simulator, self.count, self.frames, self.first_seed = simulator, count, frames, first_seed
        self._clips: dict[int, ClipSample] = {}
        if cache_dir is not None:
            self._load(cache_dir)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | tuple[int, int]) -> ClipSample:
        index = key[1] if isinstance(key, tuple) else key
        if index not in self._clips:
            self._clips[index] = self.simulator.clip(self.first_seed + index, self.frames)
        return self._clips[index]

    def cameras(self) -> dict[str, Camera | None]:
        """The simulator's, for all clips."""
        return {"simulator": self.simulator.camera}

    def _load(self, folder: Path) -> None:
        """Read all clips from the cache, rendering them into it first if it is new."""
        s = self.simulator
        name = (
            f"simulator-v1-{s.camera_model}-{s.height}x{s.width}-f{s.fov_deg:g}-h{s.camera_height:g}-s{s.supersample}"
            f"-m{s.movers}-d{s.detail:g}-r{s.fps:g}-n{self.count}x{self.frames}-{self.first_seed}.npz"
        )
        file = folder / name
        if not file.is_file():
            clips = [self[i] for i in range(self.count)]
            arrays = {k: torch.stack([getattr(c, k) for c in clips]).numpy() for k in ("frames", "actions", "yaw")}
            arrays |= {k: torch.stack([getattr(c, k) for c in clips]).numpy() for k in ("R", "C")}
            write_atomically(file, arrays)
        with np.load(file) as stored:
            columns = {k: torch.from_numpy(stored[k]) for k in stored}
        for i in range(self.count):
            row: dict[str, Any] = {k: v[i] for k, v in columns.items()}
            self._clips[i] = ClipSample(**row, camera=s.camera, fps=s.fps, clip_id=f"simulator_{self.first_seed + i}")


class RecordedClips(Dataset[ClipSample]):
    """Windows of recorded clips.

    Args:
        reader: the source.
        clips: ids to use.
        frames: per window, after the stride.
        stride: source frames per step.
        size: (H, W).
        seed: of the windows; None takes the middle window (evaluation).
        cache_dir: keep resized frames of whole clips there.

    Raises:
        ValueError: no clips, or one too short for the window.
    """

    def __init__(
        self, reader: Reader, clips: Sequence[str], frames: int, stride: int, size: tuple[int, int], *,
        seed: int | None, cache_dir: Path | None = None,
    ) -> None:  # fmt: skip
        if not clips:
            raise ValueError("no clips in this part: give other fractions (shares of vehicles), or more vehicles")
        self.reader, self.clips, self.frames, self.stride, self.size = reader, list(clips), frames, stride, size
        self.seed, self.cache_dir = seed, cache_dir
        self._stored: dict[str, Path] = {}
        for clip in self.clips:
            last_start(reader.length(clip), frames, stride, clip)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> ClipSample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        clip = self.clips[index]
        length = self.reader.length(clip)
        if self.seed is None:
            start = last_start(length, self.frames, self.stride, clip) // 2
        else:
            start = window_start(length, self.frames, self.stride, seed=self.seed, epoch=epoch, index=index)
        if self.cache_dir is None:
            return self.reader.read(clip, start, self.frames, self.stride, self.size)
        return self._cached(clip, start)

    def cameras(self) -> dict[str, Camera | None]:
        """Intrinsics of every clip at the source's size."""
        return {clip: self.reader.camera(clip) for clip in self.clips}

    def _cached(self, clip: str, start: int) -> ClipSample:
        """A window whose frames come from a memory-mapped file of the resized clip."""
        assert self.cache_dir is not None
        if clip not in self._stored:
            words = (type(self.reader).__name__, getattr(self.reader, "root", ""), clip, self.size)
            key = "/".join(map(str, (*words, self.reader.stamp(clip))))
            name = hashlib.sha256(key.encode()).hexdigest()[:20]
            self._stored[clip] = self.cache_dir / f"frames-{name}.npy"
        file = self._stored[clip]
        if not file.is_file():
            write_atomically(file, self.reader.read(clip, size=self.size).frames.numpy())
        frames = np.load(file, mmap_mode="r")[start : start + (self.frames - 1) * self.stride + 1 : self.stride]
        sample = self.reader.read(clip, start, 1, self.stride, self.size)
        actions, yaw = self.reader.motion(clip, start, self.frames, self.stride)
        sample.frames, sample.actions, sample.yaw = torch.from_numpy(frames.copy()), actions.float(), yaw.float()
        sample.R = sample.C = None
        return sample


def write_atomically(file: Path, content: np.ndarray | dict[str, np.ndarray]) -> None:
    """Write an array (.npy) or arrays (.npz) so that a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{os.getpid()}-{file.name}")
    with part.open("wb") as handle:
        if isinstance(content, dict):
            np.savez(handle, **content)  # type: ignore[arg-type]
        else:
            np.save(handle, content)
    part.replace(file)


def collate(samples: Sequence[ClipSample]) -> dict[str, Any]:
    """A batch: frames uint8 ``(B, T, 3, H, W)``, actions ``(B, T-1, 2)``, yaw (nan if unknown), ids, cameras, fps."""
    yaw = [torch.full((len(s.actions),), float("nan")) if s.yaw is None else s.yaw for s in samples]
    return {
        "frames": torch.stack([s.frames for s in samples]),
        "actions": torch.stack([s.actions for s in samples]),
        "yaw": torch.stack(yaw),
        "clip_id": [s.clip_id for s in samples],
        "camera": [s.camera for s in samples],
        "fps": [s.fps for s in samples],
    }
