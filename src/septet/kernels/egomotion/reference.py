"""Motions of a camera with axes x right, y down, z forward; poses are camera -> world (DrivingDojo, section 3).

The motion of step n belongs to frame n: it is the motion *leaving* it, so T frames have T-1 motions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_motion(R: Tensor, C: Tensor) -> Tensor:
    """Displacement of every step in the axes of the frame it leaves, ``m_n = R_n^T (C_{n+1} - C_n)``.

    Args:
        R: rotations camera -> world, ``(.., T, 3, 3)``.
        C: camera centres, ``(.., T, 3)`` metres.

    Returns:
        Displacements x right, y down, z forward, ``(.., T-1, 3)`` metres.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check_poses(R, C)
    return torch.einsum("...tji,...tj->...ti", R[..., :-1, :, :], C[..., 1:, :] - C[..., :-1, :])


def actions_from_poses(R: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Actions (forward, right) and yaw of every step.

    Args:
        R: rotations camera -> world, ``(.., T, 3, 3)``.
        C: camera centres, ``(.., T, 3)`` metres.

    Returns:
        Actions ``(.., T-1, 2)`` metres and yaw ``(.., T-1)`` radians, positive to the right.
    """
    motion = relative_motion(R, C)
    turn = R[..., :-1, :, :].transpose(-1, -2) @ R[..., 1:, :, :]
    return motion[..., (2, 0)], torch.atan2(turn[..., 0, 2], turn[..., 2, 2])


def implied_yaw(actions: Tensor, min_step: float = 0.02) -> Tensor:
    """Yaw by the chord rule: on an arc the chord points half the turn away, ``2 atan2(right, forward)``.

    Args:
        actions: (forward, right), ``(.., N, 2)`` metres.
        min_step: shorter steps turn by 0, metres.

    Returns:
        Yaw ``(.., N)`` in (-pi, pi] radians.
    """
    yaw = 2 * torch.atan2(actions[..., 1], actions[..., 0])
    yaw = torch.where(yaw > math.pi, yaw - 2 * math.pi, yaw)
    yaw = torch.where(yaw <= -math.pi, yaw + 2 * math.pi, yaw)
    return torch.where(actions.norm(dim=-1) < min_step, torch.zeros_like(yaw), yaw)


def integrate_actions(actions: Tensor, yaw: Tensor | None = None) -> Tensor:
    """Path of a list of actions, ``p_{n+1} = p_n + Rot(h_n) a_n`` and ``h_{n+1} = h_n + yaw_n``.

    Args:
        actions: (forward, right), ``(.., N, 2)`` metres.
        yaw: turn of every step ``(.., N)`` radians; None means the chord rule.

    Returns:
        Forward, right and heading in the first frame, ``(.., N+1, 3)``; headings are sums, not wrapped.

    Raises:
        ValueError: if the shapes do not fit.
    """
    yaw = _yaw(actions, yaw)
    heading = F.pad(yaw.cumsum(-1), (1, 0))
    cos, sin = heading[..., :-1].cos(), heading[..., :-1].sin()
    forward, right = actions[..., 0], actions[..., 1]
    steps = torch.stack([forward * cos - right * sin, forward * sin + right * cos], -1)
    place = F.pad(steps.cumsum(-2), (0, 0, 1, 0))
    return torch.cat([place, heading.unsqueeze(-1)], -1)


def compose_actions(actions: Tensor, yaw: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """Join every ``stride`` steps into one by composing poses; a shorter rest is dropped.

    Args:
        actions: (forward, right), ``(.., N, 2)`` metres.
        yaw: ``(.., N)`` radians; None means the chord rule.
        stride: steps per new step.

    Returns:
        Actions ``(.., N//stride, 2)`` and yaw ``(.., N//stride)``, a plain sum.

    Raises:
        ValueError: if ``stride`` is below 1 or the shapes do not fit.
    """
    if stride < 1:
        raise ValueError(f"stride={stride} is below 1")
    yaw = _yaw(actions, yaw)
    count = actions.shape[-2] // stride
    grouped = actions[..., : count * stride, :].unflatten(-2, (count, stride))
    path = integrate_actions(grouped, yaw[..., : count * stride].unflatten(-1, (count, stride)))
    return path[..., -1, :2], path[..., -1, 2]


def _yaw(actions: Tensor, yaw: Tensor | None) -> Tensor:
    """The given yaw after a check of shapes, or the chord rule's."""
    if actions.ndim < 2 or actions.shape[-1] != 2:
        raise ValueError(f"actions of shape {tuple(actions.shape)}: expected (.., N, 2), forward and right in metres")
    if yaw is None:
        return implied_yaw(actions)
    if yaw.shape != actions.shape[:-1]:
        raise ValueError(f"yaw of shape {tuple(yaw.shape)} beside actions of shape {tuple(actions.shape)}")
    return yaw


def _check_poses(rotations: Tensor, centres: Tensor) -> None:
    """Raise ValueError where rotations and centres do not fit."""
    if rotations.shape[-2:] != (3, 3) or centres.shape[-1:] != (3,) or rotations.shape[:-2] != centres.shape[:-1]:
        shapes = f"R {tuple(rotations.shape)}, C {tuple(centres.shape)}"
        raise ValueError(f"poses of shapes {shapes}: expected R (.., T, 3, 3) and C (.., T, 3)")
