"""Camera paths recovered from video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class Trajectory:
    """Poses of the frames of a clip.

    Attributes:
        R: rotations camera -> world ``(T, 3, 3)`` float64, nan where not valid.
        C: centres ``(T, 3)`` float64, nan where not valid.
        valid: registered frames ``(T,)`` bool.
        info: ``reprojection_error_px``, ``median_flow_px``, ``median_depth`` where known, and whatever else an
            estimator reports.
    """

    R: Tensor
    C: Tensor
    valid: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.R = torch.as_tensor(self.R, dtype=torch.float64)
        self.C = torch.as_tensor(self.C, dtype=torch.float64)
        self.valid = torch.as_tensor(self.valid, dtype=torch.bool)
        count = len(self.valid)
        if self.R.shape != (count, 3, 3) or self.C.shape != (count, 3):
            shapes = f"R {tuple(self.R.shape)}, C {tuple(self.C.shape)}, valid {tuple(self.valid.shape)}"
            raise ValueError(f"trajectory of shapes {shapes}: expected (T, 3, 3), (T, 3), (T,)")

    @classmethod
    def failed(cls, frames: int, **info: Any) -> Trajectory:
        """No frame registered: what an estimator returns where it found nothing."""
        nan = float("nan")
        return cls(torch.full((frames, 3, 3), nan), torch.full((frames, 3), nan), torch.zeros(frames).bool(), info)

    @classmethod
    def from_actions(cls, actions: Tensor, yaw: Tensor | None = None, **info: Any) -> Trajectory:
        """The level path of actions ``(n, 2)`` and yaw ``(n,)``."""
        from septet.kernels.egomotion import integrate_actions

        path = integrate_actions(actions.double(), None if yaw is None else yaw.double())
        cos, sin, zero = path[:, 2].cos(), path[:, 2].sin(), torch.zeros(len(path), dtype=torch.float64)
        rotations = torch.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos], -1).view(-1, 3, 3)
        return cls(rotations, torch.stack([path[:, 1], zero, path[:, 0]], -1), torch.ones(len(path)).bool(), info)


class Estimator(Protocol):
    """Recovers a camera path from frames."""

    def estimate(self, frames: Tensor, camera: Any, mask: Tensor | None = None) -> Trajectory:
        """Path of ``(T, 3, H, W)`` uint8 frames; ``mask`` ``(H, W)`` or ``(T, H, W)`` bool, True = ignore."""


class OracleEstimator:
    """The true poses, whatever the frames show (tests).

    Args:
        R: rotations camera -> world ``(T, 3, 3)``.
        C: centres ``(T, 3)``.
    """

    def __init__(self, R: Tensor, C: Tensor) -> None:
        self.R, self.C = R, C

    def estimate(self, frames: Tensor, camera: Any = None, mask: Tensor | None = None) -> Trajectory:
        """The stored poses.

        Raises:
            ValueError: if the number of frames differs.
        """
        if len(frames) != len(self.C):
            raise ValueError(f"{len(frames)} frames beside {len(self.C)} known poses")
        return Trajectory(self.R, self.C, torch.ones(len(self.C)).bool())
