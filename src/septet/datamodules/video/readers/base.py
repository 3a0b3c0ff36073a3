"""What all readers share: windows, poses to motions, and frames of a window."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, ClipSample, last_start
from septet.kernels.egomotion import actions_from_poses, compose_actions, implied_yaw


class ClipReader:
    """Base: a subclass lists clips and gives lengths, motions or poses, and images.

    Args:
        root: folder.

    Raises:
        FileNotFoundError: if it is absent; ValueError if it holds no clip.
    """

    fps: float = 5.0

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}: check the path, or set SEPTET_DATA")
        self.clips: list[str] = self._list()
        if not self.clips:
            raise ValueError(f"{self.root} holds no clip this reader knows; see its layout in the README")

    def _list(self) -> list[str]:
        raise NotImplementedError

    def length(self, clip: str) -> int:
        """Number of source frames."""
        raise NotImplementedError

    def _steps(self, clip: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Motions leaving source frames start..stop-1: actions ``(n, 2)``, yaw ``(n,)`` float64."""
        poses = self._poses(clip)
        assert poses is not None
        rotations, centres = (p[start : stop + 1] for p in poses)
        return actions_from_poses(rotations, centres)

    def _poses(self, clip: str) -> tuple[Tensor, Tensor] | None:
        """R ``(T, 3, 3)`` camera -> world and C ``(T, 3)`` float64 of the whole clip, where the source has them."""
        return None

    def _images(self, clip: str, indices: list[int], size: tuple[int, int] | None) -> Tensor:
        """Frames ``(N, 3, H, W)`` uint8."""
        raise NotImplementedError

    def _camera(self, clip: str) -> Camera | None:
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
        camera, poses = self._camera(clip), self._poses(clip)
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


def quaternion_matrix(q: Tensor) -> Tensor:
    """Hamilton quaternions (w, x, y, z) ``(.., 4)`` to matrices ``(.., 3, 3)``."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    result: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return result
