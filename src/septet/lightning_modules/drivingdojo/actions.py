"""Actions as network input: the reference's encoder, and features of the own nets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from septet.kernels.egomotion import implied_yaw, integrate_actions


class ActionEncoder(nn.Module):
    """Three Linear-LayerNorm-SiLU layers plus a shortcut of the same kind, summed; the reference's state-dict names.

    Args:
        out_dim: width of the token.
        scale: metres that count as 1 (0.1 for DrivingDojo, 0.5 for nuScenes).
    """

    def __init__(self, out_dim: int = 1024, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for width in (2, out_dim, out_dim):
            layers += [nn.Linear(width, out_dim), nn.LayerNorm(out_dim), nn.SiLU()]
        self.linears = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Linear(2, out_dim), nn.LayerNorm(out_dim), nn.SiLU())

    def forward(self, actions: Tensor) -> Tensor:
        """Tokens ``(.., out_dim)`` of actions ``(.., 2)`` in metres."""
        scaled = actions / self.scale
        token: Tensor = self.linears(scaled) + self.shortcut(scaled)
        return token


def step_features(actions: Tensor, yaw: Tensor | None = None) -> Tensor:
    """(forward, 10 right, 10 yaw) of every step, ``(.., N, 3)``: comparable sizes on a street."""
    turn = known_yaw(actions, yaw)
    return torch.stack([actions[..., 0], 10 * actions[..., 1], 10 * turn], -1)


def frame_features(actions: Tensor, yaw: Tensor | None = None) -> Tensor:
    """Per frame: the step that led to it and the pose in the first frame's axes.

    Args:
        actions: ``(B, T-1, 2)`` metres.
        yaw: ``(B, T-1)`` radians; nan or None means the chord rule.

    Returns:
        ``(B, T, 7)``: step features (0 for the first frame), forward/10, right, cos and sin of the heading.
    """
    turn = known_yaw(actions, yaw)
    steps = step_features(actions, turn)
    path = integrate_actions(actions, turn)
    pose = torch.stack([path[..., 0] / 10, path[..., 1], path[..., 2].cos(), path[..., 2].sin()], -1)
    return torch.cat([torch.cat([torch.zeros_like(steps[:, :1]), steps], 1), pose], -1)


def known_yaw(actions: Tensor, yaw: Tensor | None) -> Tensor:
    """The given yaw, and the chord rule where it is unknown (None or nan)."""
    rule = implied_yaw(actions)
    return rule if yaw is None else torch.where(yaw.isnan(), rule, yaw.to(rule.dtype))
