"""DrivingDojo in its native layout: one JPEG and one action file per frame, paired by number prefix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, ClipSample, number_prefix, parse_action, sorted_by_number
from septet.datamodules.video.readers.base import ClipReader, chord

DOJO_CAMERA = Camera(
    "OPENCV_FISHEYE",
    (304.083, 300.521, 286.2, 150.34, -0.0599557882, -0.0188425275, 0.0146003197, -0.0062292265),
    576,
    320,
)
"""Intrinsics of the released clips at 576x320."""


class DrivingDojoReader(ClipReader):
    """``videos/<clip>/0010_*.jpg`` and ``action_info/<clip>/0010_*.txt`` (``[x y z]`` in the current camera's axes).

    ``meta.json`` is optional. Yaw follows the chord rule: the release has positions only.

    Args:
        root: folder with ``videos`` and ``action_info``.
        camera_info: maps (clip, its ``camera_info`` folder) to a camera: the released per-frame format is not
            documented; default the published intrinsics.
    """

    evenly_numbered = False

    def __init__(self, root: str | Path, camera_info: Callable[[str, Path], Camera] | None = None) -> None:
        self.camera_info = camera_info
        self._found: dict[str, list[Path]] = {}
        self._actions: dict[str, Tensor] = {}
        super().__init__(root)
        meta = self.root / "meta.json"
        self.meta: dict[str, Any] = json.loads(meta.read_text()) if meta.is_file() else {}

    def _list(self) -> list[str]:
        videos = self.root / "videos"
        return sorted(p.name for p in videos.iterdir() if p.is_dir()) if videos.is_dir() else []

    def _files(self, clip: str) -> list[Path]:
        """Images in order of their number."""
        if clip not in self._found:
            found = [
                p for p in (self.root / "videos" / clip).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")
            ]
            self._found[clip] = sorted_by_number(found)
        return self._found[clip]

    def length(self, clip: str) -> int:
        """Number of images."""
        return len(self._files(clip))

    def _steps(self, clip: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return chord(self._all_actions(clip)[start:stop])

    def _all_actions(self, clip: str) -> Tensor:
        """(forward, right) leaving every frame but the last ``(T-1, 2)``; a missing file is an error, never a skip."""
        if clip not in self._actions:
            folder = self.root / "action_info" / clip
            by_number = {number_prefix(p.name): p for p in folder.glob("*.txt")} if folder.is_dir() else {}
            rows = []
            for image in self._files(clip)[:-1]:
                number = number_prefix(image.name)
                if number not in by_number:
                    raise ValueError(f"{folder} has no action for frame {number} ({image.name})")
                rows.append(_read_action(by_number[number]))
            self._actions[clip] = torch.tensor(rows, dtype=torch.float64).view(-1, 2)
        return self._actions[clip]

    def camera(self, clip: str) -> Camera | None:
        """What ``camera_info`` says, else the published intrinsics."""
        folder = self.root / "camera_info" / clip
        if self.camera_info is not None:
            if not folder.is_dir():
                raise ValueError(f"no camera files {folder}: leave camera_info out to use the published intrinsics")
            return self.camera_info(clip, folder)
        return DOJO_CAMERA

    def read(
        self, clip: str, start: int = 0, frames: int | None = None, stride: int = 1, size: tuple[int, int] | None = None
    ) -> ClipSample:
        """A window; ``subset`` and ``text`` come from ``meta.json`` where it knows the clip."""
        sample = super().read(clip, start, frames, stride, size)
        description = self.meta.get(clip, {}).get("description", {})
        if description:
            kinds = description.get("type") or []
            sample.subset = ", ".join(kinds) if isinstance(kinds, list) else str(kinds)
            sample.text = description.get("remark") or None
        return sample


def _read_action(path: Path) -> tuple[float, float]:
    """(forward, right) of an action file, camera axes x right, y down, z forward."""
    try:
        x, _, z = parse_action(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return z, x
