"""Scoring of one clip for action instruction following (AIF): three protocols (DrivingDojo, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from septet.kernels.egomotion import relative_motion
from septet.lightning_modules.drivingdojo.poses import Trajectory

PROTOCOLS = ("strict", "paper", "official")
Status = Literal["scored", "failed", "skipped", "stationary"]
STILL = 0.02
"""Metres per step under which a command counts as standing."""


@dataclass
class ClipScore:
    """Result of one clip.

    Attributes:
        status: scored, failed (strict: counted with error |g|), skipped or stationary.
        reason: why not scored; "" otherwise.
        scale: metres per unit of the reconstruction, nan without one.
        steps: indices of the steps that count, int64.
        errors: absolute (forward, right) errors ``(len(steps), 2)`` metres.
        estimated: scaled estimate ``(n, 2)``, nan where missing or unscaled.
        commanded: ``(n, 2)`` metres.
        obeyed: for stationary commands, whether the camera stood still.
    """

    status: Status
    reason: str
    scale: float
    steps: Tensor
    errors: Tensor
    estimated: Tensor
    commanded: Tensor
    obeyed: bool | None = None


def score_clip(
    commanded: Tensor, trajectory: Trajectory, protocol: str = "strict", metric_scale: bool = False
) -> ClipScore:
    """Compare commanded motions with a recovered path.

    Args:
        commanded: (forward, right) metres, ``(n, 2)`` or ``(T, 2)`` (the last row is ignored).
        trajectory: recovered path of T = n + 1 frames, up to rotation, shift and scale.
        protocol: ``strict`` (headline), ``paper`` or ``official``.
        metric_scale: the path is in metres already; S = 1.

    Raises:
        ValueError: unknown protocol, actions of another shape, not finite or not fitting, official with n < 5.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: choose {', '.join(PROTOCOLS)}")
    whole = torch.as_tensor(commanded)
    steps = len(trajectory.valid) - 1
    if whole.ndim != 2 or whole.shape[1] != 2:
        raise ValueError(f"commanded of shape {tuple(whole.shape)}: expected (n, 2), forward and right in metres")
    if not bool(whole.isfinite().all()):
        raise ValueError("commanded holds values that are not finite")
    if steps < 1 or len(whole) not in (steps, steps + 1):
        raise ValueError(f"{len(whole)} commands beside a trajectory of {steps + 1} frames: expected {steps}")
    if protocol == "official" and steps < 5:
        raise ValueError(f"the official protocol needs at least 5 steps, got {steps}: use 'strict'")
    rule = {"strict": _strict, "paper": _paper, "official": _official}[protocol]
    return rule(whole[:steps].detach().cpu().double(), trajectory, metric_scale)


def l1_scale(commanded: Tensor, displacement: Tensor) -> float:
    """``argmin_{S >= 0} sum |g - S d|`` over all entries: the lower weighted median of g/d with weights |d|.

    Args:
        commanded: g, any shape, metres.
        displacement: d, same shape; zeros are ignored.

    Returns:
        S, or nan where all d are zero.
    """
    g, d = commanded.flatten(), displacement.flatten()
    g, d = g[d != 0], d[d != 0]
    if len(d) == 0:
        return math.nan
    ratio, order = (g / d).sort()
    weight = d.abs()[order].cumsum(0)
    first = int((weight >= weight[-1] / 2).nonzero()[0])
    return max(0.0, float(ratio[first]))


def _displacements(trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """Raw (forward, right) of every step ``(n, 2)`` and where both ends are registered ``(n,)``."""
    motion = relative_motion(trajectory.R, trajectory.C)[:, (2, 0)]
    both = trajectory.valid[:-1] & trajectory.valid[1:]
    return torch.where(both.unsqueeze(1), motion, math.nan), both


def _result(
    status: Status, reason: str, scale: float, steps: Tensor, g: Tensor, d: Tensor, obeyed: bool | None = None
) -> ClipScore:
    """Errors of the chosen steps; a failed clip's are |g|."""
    estimated = scale * d
    errors = (g if status == "failed" else g - estimated)[steps].abs()
    return ClipScore(status, reason, scale, steps, errors, estimated, g, obeyed)


_NONE = torch.zeros(0, dtype=torch.int64)


def _paper(g: Tensor, trajectory: Trajectory, metric_scale: bool) -> ClipScore:
    d, both = _displacements(trajectory)
    first = both[:10]
    scale = l1_scale(g[:10][first], d[:10][first])
    if metric_scale:
        scale = 1.0 if bool(first.any()) and not math.isnan(scale) else math.nan
    if math.isnan(scale):
        return _result("skipped", "no_pairs", math.nan, _NONE, g, d)
    return _result("scored", "", scale, both.nonzero().flatten(), g, d)


def _official(g: Tensor, trajectory: Trajectory, metric_scale: bool) -> ClipScore:
    d, _ = _displacements(trajectory)
    if not bool(trajectory.valid.all()):
        return _result("skipped", "unregistered", math.nan, _NONE, g, d)
    if not bool((g[1:] != 0).any()):
        return _result("skipped", "stationary", math.nan, _NONE, g, d)
    scale = 1.0 if metric_scale else float((g[:5].norm(dim=1) / d[:5].norm(dim=1)).mean())
    error = (g - scale * d).abs().sum(1)
    steps = (error.isfinite() & (error < 10)).nonzero().flatten()
    if len(steps) == 0:
        return _result("skipped", "no_pairs", scale, _NONE, g, d)
    return _result("scored", "", scale, steps, g, d)


def _strict(g: Tensor, trajectory: Trajectory, metric_scale: bool) -> ClipScore:
    d, both = _displacements(trajectory)
    if float(g.abs().max()) < STILL:
        return _result("stationary", "", math.nan, _NONE, g, d, obeyed=_stood_still(trajectory, both))
    first = both[:10]
    scale = 1.0 if metric_scale else l1_scale(g[:10][first], d[:10][first])
    reason = _gate(g, d, both, trajectory, scale, metric_scale)
    if reason:
        return _result("failed", reason, scale, torch.arange(len(g)), g, d)
    return _result("scored", "", scale, both.nonzero().flatten(), g, d)


def _gate(g: Tensor, d: Tensor, both: Tensor, trajectory: Trajectory, scale: float, metric_scale: bool) -> str:
    """First reason to distrust a reconstruction, or ""."""
    if int(both[:10].sum()) < min(5, math.ceil(len(g) / 2)):
        return "few_pairs"
    if int(trajectory.valid.sum()) * 5 < len(trajectory.valid) * 4:
        return "registered"
    if float(trajectory.info.get("reprojection_error_px") or 0.0) > 2:
        return "reprojection"
    if metric_scale:
        return ""
    if not scale > 0:
        return "scale"
    moving = both[:5] & (g[:5].norm(dim=1) >= STILL)
    if bool(moving.any()):
        ratio = float((g[:5].norm(dim=1) / d[:5].norm(dim=1))[moving].mean())
        if not scale / 2 <= ratio <= 2 * scale:
            return "scale_disagreement"
    return ""


def _stood_still(trajectory: Trajectory, both: Tensor) -> bool:
    """Whether the camera stood: by flow where given, else by motion over depth, else not."""
    flow, depth = trajectory.info.get("median_flow_px"), trajectory.info.get("median_depth")
    if flow is not None:
        return float(flow) < 0.5
    if depth is None or not bool(both.any()):
        return False
    length = (trajectory.C[1:] - trajectory.C[:-1]).norm(dim=1)[both]
    return float(torch.quantile(length, 0.5)) / float(depth) < 0.002
