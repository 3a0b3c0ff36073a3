"""KITTI odometry sequences: images and poses camera -> world, 10 fps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, sorted_by_number
from septet.datamodules.video.decode import read_image
from septet.datamodules.video.readers.base import ClipReader, folders_with


class KittiReader(ClipReader):
    """One sequence, or a folder of them: ``image_2`` (or ``image_0``), ``poses.txt``, ``calib.txt``."""

    fps = 10.0

    def __init__(self, root: str | Path) -> None:
        self._loaded: dict[str, tuple[Tensor, Tensor]] = {}
        super().__init__(root)

    def _list(self) -> list[str]:
        if (self.root / "poses.txt").is_file():
            return [self.root.name]
        return folders_with(self.root, "poses.txt")

    def _folder(self, clip: str) -> Path:
        return self.root if (self.root / "poses.txt").is_file() else self.root / clip

    def _poses(self, clip: str) -> tuple[Tensor, Tensor]:
        if clip not in self._loaded:
            path = self._folder(clip) / "poses.txt"
            try:
                rows = np.array(
                    [[float(w) for w in line.split()] for line in path.read_text().splitlines() if line.strip()]
                )
                matrices = torch.from_numpy(rows.reshape(-1, 3, 4))
            except ValueError as error:
                raise ValueError(f"{path}: expected 12 numbers per row: {error}") from error
            if not bool(matrices.isfinite().all()):
                raise ValueError(f"{path} holds values that are not finite")
            self._loaded[clip] = matrices[..., :3].contiguous(), matrices[..., 3].contiguous()
        return self._loaded[clip]

    def _files(self, clip: str) -> list[Path]:
        for name in ("image_2", "image_0"):
            folder = self._folder(clip) / name
            if folder.is_dir():
                return sorted_by_number(folder.glob("*.png"))
        raise FileNotFoundError(f"no image_2 or image_0 in {self._folder(clip)}")

    def length(self, clip: str) -> int:
        """Number of frames that have both an image and a pose."""
        return min(len(self._files(clip)), len(self._poses(clip)[1]))

    def camera(self, clip: str) -> Camera:
        """First projection row of ``calib.txt``, with or without its ``P0:`` prefix."""
        path = self._folder(clip) / "calib.txt"
        if not path.is_file():
            raise FileNotFoundError(f"no camera file {path}")
        words = path.read_text().split("\n", 1)[0].split(":")[-1].split()
        if len(words) != 12:
            raise ValueError(f"{path}: expected 12 numbers in the first row, found {len(words)}")
        p = [float(w) for w in words]
        height, width = read_image(self._files(clip)[0]).shape[1:]
        # KITTI counts pixel centres from 0, COLMAP from 0.5
        return Camera("PINHOLE", (p[0], p[5], p[2] + 0.5, p[6] + 0.5), width, height)
