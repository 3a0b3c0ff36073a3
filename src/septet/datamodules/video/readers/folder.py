"""The user's own video: a folder of numbered images or an mp4, beside it a CSV of motions or poses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from septet.datamodules.video.clips import Camera, sorted_by_number
from septet.datamodules.video.decode import check_whole, count_frames
from septet.datamodules.video.readers.base import ClipReader, quaternion_matrix
from septet.datamodules.video.tables import MOTION, POSE, read_table
from septet.kernels.egomotion import implied_yaw

_IMAGES = (".jpg", ".jpeg", ".png")


class FolderReader(ClipReader):
    """``<clip>/`` of numbered images or ``<clip>.mp4``; ``<clip>.csv``; optional ``<clip>.json``.

    The CSV has the header ``forward,right[,yaw]`` (row n = motion leaving frame n) or ``x,y,z,qw,qx,qy,qz``
    (camera -> world). The JSON may hold fps, model, params, width, height.
    """

    def __init__(self, root: str | Path) -> None:
        self._tables: dict[str, tuple[list[str], Tensor]] = {}
        self._lengths: dict[str, int] = {}
        super().__init__(root)

    def _list(self) -> list[str]:
        tables = {p.stem for p in self.root.glob("*.csv")}
        entries = sorted(self.root.iterdir())
        self._videos = {p.stem: p for p in entries if p.suffix.lower() == ".mp4"}
        folders = {p.name: _images(p) for p in entries if p.is_dir()}
        shown = set(self._videos) | {name for name, images in folders.items() if images}
        self.skipped = [f"{n}: no {n}.csv beside it" for n in sorted(shown - tables)]
        self.skipped += [f"{n}.csv: no folder {n} or {n}.mp4 beside it" for n in sorted(tables - shown - set(folders))]
        return sorted(tables & (shown | set(folders)))

    def _video(self, clip: str) -> Path | None:
        return None if (self.root / clip).is_dir() else self._videos[clip]

    def _files(self, clip: str) -> list[Path]:
        images = _images(self.root / clip)
        numbered = sorted_by_number(images)
        if not numbered:
            others = f"{len(images)} others such as {images[0].name}: rename them" if images else "no other"
            raise ValueError(f"{self.root / clip} holds no image named by its number (0000.png ..) and {others}")
        return numbered

    def length(self, clip: str) -> int:
        """Number of frames; table, camera file and the ends of the images are checked once, before long work."""
        if clip not in self._lengths:
            video = self._video(clip)
            frames = len(self._files(clip)) if video is None else count_frames(video)
            header, rows = self._table(clip)
            need = frames if header == POSE else frames - 1
            if len(rows) not in (need, frames):
                raise ValueError(f"{self.root / clip}.csv has {len(rows)} rows, {frames} frames need {need}")
            for file in self._files(clip) if video is None else ():
                check_whole(file)
            self._poses(clip), self.camera(clip), self.clip_fps(clip)
            self._lengths[clip] = frames
        return self._lengths[clip]

    def check(self, clip: str) -> tuple[int, int]:
        """Decode everything; a camera of another aspect than the frames is refused too."""
        height, width = super().check(clip)
        camera = self.camera(clip)
        if camera is not None and abs(camera.width * height / (camera.height * width) - 1) > 0.05:
            sizes = f"width {camera.width}, height {camera.height} beside frames of {width}x{height}"
            raise ValueError(f"{self.root / clip}.json: {sizes} pixels: are these the intrinsics of this video?")
        return height, width

    def _table(self, clip: str) -> tuple[list[str], Tensor]:
        """Header and numbers of the CSV, float64."""
        if clip not in self._tables:
            self._tables[clip] = read_table(self.root / f"{clip}.csv", [*MOTION, POSE])
        return self._tables[clip]

    def _steps(self, clip: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        header, table = self._table(clip)
        rows = table[start:stop]
        return rows[:, :2], rows[:, 2] if "yaw" in header else implied_yaw(rows[:, :2])

    def _poses(self, clip: str) -> tuple[Tensor, Tensor] | None:
        header, table = self._table(clip)
        if header != POSE:
            return None
        return quaternion_matrix(table[:, 3:], self.root / f"{clip}.csv"), table[:, :3]

    def _settings(self, clip: str) -> dict[str, Any]:
        path = self.root / f"{clip}.json"
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no JSON object such as {{'fps': 10}}")
        return found

    def clip_fps(self, clip: str) -> float:
        """From the JSON, else 5."""
        value = self._settings(clip).get("fps", self.fps)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{self.root / clip}.json: fps is {value!r}: give a number above 0")
        return float(value)

    def camera(self, clip: str) -> Camera | None:
        """From the JSON, or None where it names no model."""
        given, path = self._settings(clip), f"{self.root / clip}.json"
        if "model" not in given:
            return None
        missing = [k for k in ("params", "width", "height") if k not in given]
        if missing:
            raise ValueError(f"{path} names a camera model but lacks {', '.join(missing)}")
        if not isinstance(given["params"], list):
            raise ValueError(f"{path}: params is {given['params']!r}: give a list of numbers")
        try:
            params = tuple(float(p) for p in given["params"])
            return Camera(given["model"], params, int(given["width"]), int(given["height"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: model, params, width and height make no camera: {error}") from error


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)
