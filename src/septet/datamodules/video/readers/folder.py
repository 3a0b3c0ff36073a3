"""The user's own video: a folder of numbered images or an mp4, beside it a CSV of motions or poses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, sorted_by_number
from septet.datamodules.video.decode import count_frames, read_image, read_video
from septet.datamodules.video.readers.base import ClipReader, quaternion_matrix
from septet.kernels.egomotion import implied_yaw

_POSE = ["x", "y", "z", "qw", "qx", "qy", "qz"]
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
        return sorted(
            p.stem for p in self.root.glob("*.csv") if (self.root / p.stem).is_dir() or self._video(p.stem).is_file()
        )

    def _video(self, clip: str) -> Path:
        return self.root / f"{clip}.mp4"

    def _files(self, clip: str) -> list[Path]:
        return sorted_by_number(p for p in (self.root / clip).iterdir() if p.suffix.lower() in _IMAGES)

    def length(self, clip: str) -> int:
        """Number of frames; checked against the rows of the CSV."""
        if clip not in self._lengths:
            is_folder = (self.root / clip).is_dir()
            frames = len(self._files(clip)) if is_folder else count_frames(self._video(clip))
            header, rows = self._table(clip)
            need = frames if header == _POSE else frames - 1
            if len(rows) not in (need, frames):
                raise ValueError(f"{self.root / clip}.csv has {len(rows)} rows, {frames} frames need {need}")
            self._lengths[clip] = frames
        return self._lengths[clip]

    def _table(self, clip: str) -> tuple[list[str], Tensor]:
        """Header and numbers of the CSV, float64."""
        if clip not in self._tables:
            path = self.root / f"{clip}.csv"
            with path.open(newline="") as handle:
                rows = [r for r in csv.reader(handle) if r]
            header = [c.strip() for c in rows[0]] if rows else []
            if header not in (["forward", "right"], ["forward", "right", "yaw"], _POSE):
                raise ValueError(f"{path}: header {header}; expected forward,right[,yaw] or {','.join(_POSE)}")
            self._tables[clip] = header, _numbers(path, rows[1:], len(header))
        return self._tables[clip]

    def _steps(self, clip: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        header, table = self._table(clip)
        rows = table[start:stop]
        return rows[:, :2], rows[:, 2] if "yaw" in header else implied_yaw(rows[:, :2])

    def _poses(self, clip: str) -> tuple[Tensor, Tensor] | None:
        header, table = self._table(clip)
        return (quaternion_matrix(table[:, 3:]), table[:, :3]) if header == _POSE else None

    def _images(self, clip: str, indices: list[int], size: tuple[int, int] | None) -> Tensor:
        if not (self.root / clip).is_dir():
            return torch.from_numpy(read_video(self._video(clip), indices, size))
        files = self._files(clip)
        return torch.stack([torch.from_numpy(read_image(files[i], size)) for i in indices])

    def _settings(self, clip: str) -> dict[str, Any]:
        path = self.root / f"{clip}.json"
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error

    def clip_fps(self, clip: str) -> float:
        """From the JSON, else 5."""
        return float(self._settings(clip).get("fps", self.fps))

    def _camera(self, clip: str) -> Camera | None:
        given = self._settings(clip)
        if "model" not in given:
            return None
        missing = [k for k in ("params", "width", "height") if k not in given]
        if missing:
            raise ValueError(f"{self.root / clip}.json names a camera model but lacks {', '.join(missing)}")
        return Camera(given["model"], tuple(given["params"]), int(given["width"]), int(given["height"]))


def _numbers(path: Path, rows: list[list[str]], width: int) -> Tensor:
    """Finite numbers of a CSV, naming the row that is none."""
    values = []
    for number, row in enumerate(rows):
        try:
            values.append([float(c) for c in row])
        except ValueError as error:
            raise ValueError(f"{path}, row {number + 1}: {error}") from error
        if len(row) != width:
            raise ValueError(f"{path}, row {number + 1}: {len(row)} columns beside a header of {width}")
    table = torch.tensor(values, dtype=torch.float64).view(-1, width)
    if not bool(table.isfinite().all()):
        raise ValueError(f"{path} holds values that are not finite")
    return table
