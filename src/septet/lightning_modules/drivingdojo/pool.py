"""Runs an estimator over many clips in several processes and remembers what it found."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.lightning_modules.drivingdojo.poses import Estimator, Trajectory

Masks = Tensor | Sequence[Tensor | None] | None
"""One mask for all clips, or one per clip."""


class EstimatorPool:
    """Runs an estimator over many clips in several processes and remembers results by a hash of the frames.

    The processes start at the first call that needs them and stay until :meth:`close`.

    Args:
        estimator: any of the estimators.
        workers: processes; 0 runs here.
        cache_dir: keep results there; None remembers nothing.

    Raises:
        ValueError: ``workers`` below 0.
    """

    def __init__(self, estimator: Estimator, workers: int = 0, cache_dir: str | Path | None = None) -> None:
        if workers < 0:
            raise ValueError(f"workers={workers} is below 0")
        self.estimator, self.workers = estimator, workers
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.runs = 0
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the running processes: metrics are copied and pickled."""
        return vars(self) | {"_pool": None}

    def estimate(self, frames: Tensor, camera: Any, mask: Tensor | None = None) -> Trajectory:
        """One clip."""
        return self.estimate_many([frames], [camera], mask)[0]

    def estimate_many(self, clips: Sequence[Tensor], cameras: Sequence[Any], mask: Masks = None) -> list[Trajectory]:
        """All clips, in order; only those that are not remembered run, equal ones once.

        Args:
            clips: ``(T, 3, H, W)`` uint8 each.
            cameras: one per clip.
            mask: pixels to ignore, one for all clips or one per clip.
        """
        masks = mask_list(mask, len(clips))
        keys = [self._key(*given) for given in zip(clips, cameras, masks, strict=True)]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        known = {key: found for key in first if (found := _load(self._file(key))) is not None}
        missing = [key for key in first if key not in known]
        jobs = [(self.estimator, clips[i], cameras[i], masks[i]) for i in (first[key] for key in missing)]
        self.runs += len(jobs)
        for key, result in zip(missing, self._run(jobs), strict=True):
            known[key] = result
            if (file := self._file(key)) is not None and not _late(result):
                _store(file, result)
        return [known[key] for key in keys]

    def _run(self, jobs: list[Any]) -> list[Trajectory]:
        if not self.workers or not jobs:
            return [_job(job) for job in jobs]
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _one_thread)
        return list(self._pool.map(_job, jobs))

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _key(self, frames: Tensor, camera: Any, mask: Tensor | None) -> str:
        """Hash of everything a result depends on: estimator, its settings and weights, frames, camera, mask."""
        kept = vars(self.estimator)
        settings = {k: v for k, v in kept.items() if isinstance(v, (int, float, str, type(None)))}
        digest = hashlib.sha256(frames.numpy().tobytes())
        text = f"{type(self.estimator).__name__}{sorted(settings.items())}{camera}{tuple(frames.shape)}"
        digest.update(text.encode())
        for value in (*(v for _, v in sorted(kept.items()) if isinstance(v, Tensor)), mask):
            digest.update(b"-" if value is None else value.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _file(self, key: str) -> Path | None:
        return None if self.cache_dir is None else self.cache_dir / f"trajectory-{key}.pt"


def mask_list(mask: Masks, clips: int) -> list[Tensor | None]:
    """One mask per clip.

    Raises:
        ValueError: another number of masks than clips.
    """
    if mask is None or isinstance(mask, Tensor):
        return [mask] * clips
    if len(mask) != clips:
        raise ValueError(f"{len(mask)} masks beside {clips} clips")
    return list(mask)


def _one_thread() -> None:
    """Workers share the processor: one thread each."""
    torch.set_num_threads(1)


def _job(job: tuple[Estimator, Tensor, Any, Tensor | None]) -> Trajectory:
    estimator, frames, camera, mask = job
    return estimator.estimate(frames, camera, mask)


def _store(file: Path, result: Trajectory) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{os.getpid()}-{file.name}")
    with part.open("wb") as handle:  # a path would be kept inside the file
        torch.save({"R": result.R, "C": result.C, "valid": result.valid, "info": result.info}, handle)
    part.replace(file)


def _load(file: Path | None) -> Trajectory | None:
    """A remembered path, or None: no file, a damaged one, or a time limit of an earlier run."""
    if file is None or not file.is_file():
        return None
    try:
        found = Trajectory(**torch.load(file, weights_only=True))
    except Exception:  # whatever a damaged file makes torch raise: the clip runs again
        return None
    return None if _late(found) else found


def _late(result: Trajectory) -> bool:
    """Whether the estimator ran out of time, which says nothing about the clip."""
    return result.info.get("reason") == "timeout"
