"""What all readers share: windows, poses to motions, and frames of a window."""

from __future__ import annotations

import abc
import hashlib
import itertools
import os
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, ClipSample, last_start, number_prefix
from septet.datamodules.video.decode import read_image, read_video, video_size
from septet.kernels.egomotion import actions_from_poses, compose_actions, implied_yaw


class ClipReader(abc.ABC):
    """Base: a subclass lists clips and gives lengths, motions or poses, and images.

    Args:
        root: folder.

    Raises:
        FileNotFoundError: if it is absent; ValueError if it holds no clip.
    """

    fps: float = 5.0
    evenly_numbered: ClassVar[bool] = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}: check the path, or set SEPTET_DATA")
        self.skipped: list[str] = []
        """What lies there and is no whole clip, one sentence each."""
        self.clips: list[str] = self._list()
        if not self.clips:
            found = "".join(f" ({line})" for line in self.skipped[:3])
            raise ValueError(f"{self.root} holds no clip this reader knows{found}; see its layout in the README")

    @abc.abstractmethod
    def _list(self) -> list[str]:
        """Ids of the clips below the root."""

    @abc.abstractmethod
    def length(self, clip: str) -> int:
        """Number of source frames."""

    def _steps(self, clip: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Motions leaving source frames start..stop-1: actions ``(n, 2)``, yaw ``(n,)`` float64."""
        poses = self._poses(clip)
        assert poses is not None
        rotations, centres = (p[start : stop + 1] for p in poses)
        return actions_from_poses(rotations, centres)

    def _poses(self, clip: str) -> tuple[Tensor, Tensor] | None:
        """R ``(T, 3, 3)`` camera -> world and C ``(T, 3)`` float64 of the whole clip, where the source has them."""
        return None

    @abc.abstractmethod
    def _files(self, clip: str) -> list[Path]:
        """The files of the frames, in order: one image each, or the video."""

    def _video(self, clip: str) -> Path | None:
        """The file that holds all frames, if it is one."""
        return None

    def _images(self, clip: str, indices: list[int], size: tuple[int, int] | None) -> Tensor:
        """Frames ``(N, 3, H, W)`` uint8."""
        if (video := self._video(clip)) is not None:
            return torch.from_numpy(read_video(video, indices, size))
        files = self._files(clip)
        images = [torch.from_numpy(read_image(files[i], size)) for i in indices]
        for index, image in zip(indices, images, strict=True):
            _same_size(files[index], image.shape, files[indices[0]], images[0].shape)
        return torch.stack(images)

    def stamp(self, clip: str) -> str:
        """Names, sizes and times of the files the frames come from, hashed: another stamp, other frames."""
        video = self._video(clip)
        files = self._files(clip) if video is None else [video]
        states = [(f.name, s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:16]

    def check(self, clip: str) -> tuple[int, int]:
        """Read the motions and decode every frame; (H, W) of the frames.

        Raises:
            ValueError: naming the file that is broken, missing, there twice or of another size.
        """
        self.motion(clip)
        length = self.length(clip)
        if (video := self._video(clip)) is not None:
            read_video(video, list(range(length)), (32, 64))
            return video_size(video)
        files = self._files(clip)[:length]
        _check_numbers(files, self.evenly_numbered)
        shape = read_image(files[0]).shape
        for file in files[1:]:
            _same_size(file, read_image(file).shape, files[0], shape)
        return shape[1], shape[2]

    def camera(self, clip: str) -> Camera | None:
        """Intrinsics at the source's size."""
        return None

    def clip_fps(self, clip: str) -> float:
        """Frames per second of the source."""
        return self.fps

    def motion(self, clip: str, start: int = 0, frames: int | None = None, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Motions of a window without decoding an image.

        Args:
            clip: one of :attr:`clips`.
            start: source frame.
            frames: counted after the stride; None takes all that fit.
            stride: source frames per step; poses are composed.

        Returns:
            Actions ``(frames-1, 2)`` metres and yaw ``(frames-1,)`` radians, float64.

        Raises:
            ValueError: unknown clip, or a window longer than it.
        """
        indices = self._window(clip, start, frames, stride)
        poses = self._poses(clip)
        if poses is not None:
            return actions_from_poses(poses[0][indices], poses[1][indices])
        actions, yaw = self._steps(clip, indices[0], indices[-1])
        return (actions, yaw) if stride == 1 else compose_actions(actions, yaw, stride)

    def read(
        self, clip: str, start: int = 0, frames: int | None = None, stride: int = 1, size: tuple[int, int] | None = None
    ) -> ClipSample:
        """A window with its frames; the arguments are those of :meth:`motion`, ``size`` is (H, W)."""
        indices = self._window(clip, start, frames, stride)
        actions, yaw = self.motion(clip, start, frames, stride)
        images = self._images(clip, indices, size)
        camera, poses = self.camera(clip), self._poses(clip)
        if camera is not None:
            camera = camera.resized(images.shape[-1], images.shape[-2])
        sample = ClipSample(images, actions.float(), yaw.float(), camera, self.clip_fps(clip) / stride, clip)
        if poses is not None:
            sample.R, sample.C = poses[0][indices], poses[1][indices]
        return sample

    def _window(self, clip: str, start: int, frames: int | None, stride: int) -> list[int]:
        """Source indices of a window after a check."""
        if clip not in self.clips:
            raise ValueError(f"no clip {clip!r} in {self.root}: it has {', '.join(self.clips[:3])} ...")
        if stride < 1:
            raise ValueError(f"stride={stride} is below 1")
        length = self.length(clip)
        if not 0 <= start < length:
            raise ValueError(f"start={start} is outside clip {clip!r} of length {length}")
        count = (length - start - 1) // stride + 1 if frames is None else frames
        last_start(length - start, count, stride, clip)
        return list(range(start, start + (count - 1) * stride + 1, stride))


def chord(actions: Tensor) -> tuple[Tensor, Tensor]:
    """Actions with the yaw of the chord rule."""
    return actions, implied_yaw(actions)


def folders_with(root: Path, name: str) -> list[str]:
    """Folders below ``root``, relative to it, that hold an entry ``name``; links to folders are followed, once each."""
    found, seen = [], set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if name in folders or name in files:
            found.append(str(Path(place).relative_to(root)))
    return sorted(found)


def _same_size(file: Path, shape: tuple[int, ...], first: Path, usual: tuple[int, ...]) -> None:
    """Raise ValueError for an image of another size than the first of its clip."""
    if shape != usual:
        raise ValueError(f"{file} has {shape[2]}x{shape[1]} pixels, {first.name} has {usual[2]}x{usual[1]}")


def _check_numbers(files: list[Path], even: bool) -> None:
    """Raise ValueError where a frame's number is missing or there twice."""
    numbers = [number_prefix(f.name) or 0 for f in files]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    usual = min((s for s in steps if s), default=0)
    for (before, after), step in zip(itertools.pairwise(files), steps, strict=True):
        if step == 0:
            raise ValueError(f"{before} and {after.name} have the same number")
        if even and step != usual:
            raise ValueError(f"{after}: a frame is missing between {before.name} and {after.name}")


def quaternion_matrix(q: Tensor, path: Path) -> Tensor:
    """Hamilton quaternions (w, x, y, z) ``(N, 4)`` to matrices ``(N, 3, 3)``.

    Raises:
        ValueError: for one whose norm is not 1, naming its row in ``path``.
    """
    wrong = (~((q.norm(dim=-1) - 1).abs() < 0.01)).nonzero().flatten().tolist()
    if wrong:
        norm = float(q[wrong[0]].norm())
        raise ValueError(f"{path}, row {wrong[0] + 1}: a quaternion of norm {norm:g}, expected 1")
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    result: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return result
