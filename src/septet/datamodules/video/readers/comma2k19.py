"""comma2k19 segments: poses of every frame in ECEF, video as raw hevc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera
from septet.datamodules.video.readers.base import ClipReader, folders_with, quaternion_matrix

COMMA_CAMERA = Camera("PINHOLE", (910.0, 910.0, 582.0, 437.0), 1164, 874)


class Comma2k19Reader(ClipReader):
    """One segment, or a folder of them: ``global_pose/frame_*`` (npy without suffix) and ``video.hevc``, 20 fps.

    The stored quaternion's matrix maps (forward, right, down) to ECEF; camera axes are (right, down, forward). A file
    ``video.frames`` holds the number of frames of a video that is shorter than the poses (a rendered one).
    """

    fps = 20.0

    def __init__(self, root: str | Path) -> None:
        self._loaded: dict[str, tuple[Tensor, Tensor]] = {}
        super().__init__(root)

    def _list(self) -> list[str]:
        if (self.root / "global_pose").is_dir():
            return [self.root.name]
        return folders_with(self.root, "global_pose")

    def _folder(self, clip: str) -> Path:
        return self.root if (self.root / "global_pose").is_dir() else self.root / clip

    def _poses(self, clip: str) -> tuple[Tensor, Tensor]:
        if clip not in self._loaded:
            folder = self._folder(clip) / "global_pose"
            position, orientation = (_column(folder / f"frame_{n}") for n in ("positions", "orientations"))
            if len(position) != len(orientation):
                raise ValueError(f"{folder}: {len(position)} positions beside {len(orientation)} orientations")
            body = quaternion_matrix(orientation, folder / "frame_orientations")  # forward, right, down in ECEF
            self._loaded[clip] = body[..., (1, 2, 0)], position
        return self._loaded[clip]

    def length(self, clip: str) -> int:
        """Number of poses, one per video frame; fewer where ``video.frames`` says so."""
        poses, short = len(self._poses(clip)[1]), self._folder(clip) / "video.frames"
        if not short.is_file():
            return poses
        if not (text := short.read_text().strip()).isdigit():
            raise ValueError(f"{short} holds {text[:40]!r}, expected the number of frames of video.hevc")
        return min(poses, int(text))

    def _video(self, clip: str) -> Path:
        return self._folder(clip) / "video.hevc"

    def _files(self, clip: str) -> list[Path]:
        return [self._video(clip)]

    def camera(self, clip: str) -> Camera:
        """The same for all segments."""
        return COMMA_CAMERA


def _column(path: Path) -> Tensor:
    """A stored array as float64."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: the segment is incomplete")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is not a numpy array: {error}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{path} holds values that are not finite")
    return torch.from_numpy(array.astype(np.float64))
