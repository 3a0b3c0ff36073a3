"""AIF as a torchmetrics Metric, with the controls that give its number a meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from septet.lightning_modules.drivingdojo.pool import Masks, mask_list
from septet.lightning_modules.drivingdojo.poses import Estimator, Trajectory
from septet.lightning_modules.drivingdojo.scoring import PROTOCOLS, ClipScore, score_clip
from septet.lightning_modules.drivingdojo.video_metrics import VideoFrechetDistance

__all__ = ["ActionInstructionFollowing", "ClipScore", "VideoFrechetDistance", "aif_with_controls", "score_clip"]

_STATUS = ("scored", "failed", "skipped", "stationary")


class ActionInstructionFollowing(Metric):
    """Mean absolute error between commanded motion and the motion recovered from the video, metres per step.

    Args:
        estimator: recovers camera paths; may be None when ``update`` is given trajectories.
        protocol: ``strict``, ``paper`` or ``official``.
        metric_scale: the estimator's paths are in metres.

    Raises:
        ValueError: unknown protocol.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    clip: list[Tensor]
    step: list[Tensor]

    def __init__(
        self, estimator: Estimator | None = None, protocol: str = "strict", metric_scale: bool = False
    ) -> None:
        super().__init__()
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}: choose {', '.join(PROTOCOLS)}")
        self.estimator, self.protocol, self.metric_scale = estimator, protocol, metric_scale
        self.set_dtype(torch.float64)
        # one row per clip: status, n, counted steps, sum ex, sum ey, scale, obeyed, sum |g|
        self.add_state("clip", default=[], dist_reduce_fx="cat")
        # one row per counted step: ex, ey, commanded (2), estimated (2), scored
        self.add_state("step", default=[], dist_reduce_fx="cat")
        self.details: list[dict[str, Any]] = []

    def update(
        self,
        video: Tensor | None = None,
        actions: Tensor | Sequence[Tensor] | None = None,
        camera: Any = None,
        mask: Masks = None,
        clip_ids: Sequence[str] | None = None,
        trajectories: Sequence[Trajectory] | None = None,
    ) -> None:
        """Score a batch of clips.

        Args:
            video: ``(B, T, 3, H, W)`` uint8; not needed with ``trajectories``.
            actions: commands ``(B, n, 2)`` or a list of ``(n, 2)``, metres.
            camera: one camera or a list.
            mask: pixels to ignore, ``(H, W)`` or ``(T, H, W)`` bool, or one per clip.
            clip_ids: names for :meth:`per_clip`.
            trajectories: recovered paths; no estimator runs.

        Raises:
            ValueError: no actions, neither video nor trajectories, or numbers of clips that differ.
        """
        if actions is None:
            raise ValueError("update needs actions: the commands of every clip")
        if trajectories is None:
            trajectories = self._estimate(video, camera, mask)
        if len(actions) != len(trajectories) or (clip_ids is not None and len(clip_ids) != len(actions)):
            raise ValueError(f"{len(actions)} lists of actions beside {len(trajectories)} clips")
        scores = [
            score_clip(a, t, self.protocol, self.metric_scale) for a, t in zip(actions, trajectories, strict=True)
        ]
        if not scores:  # an empty row block: processes without clips are gathered like the others
            self.clip.append(torch.zeros(0, 7, dtype=torch.float64, device=self.device))
            self.step.append(torch.zeros(0, 7, dtype=torch.float64, device=self.device))
        for number, score in enumerate(scores):
            self._append(score, None if clip_ids is None else clip_ids[number])

    def _estimate(self, video: Tensor | None, camera: Any, mask: Masks) -> list[Trajectory]:
        if video is None:
            raise ValueError("update needs video or trajectories")
        if self.estimator is None:
            raise ValueError("no estimator: give one to the metric, or trajectories to update")
        cameras = list(camera) if isinstance(camera, (list, tuple)) else [camera] * len(video)
        if hasattr(self.estimator, "estimate_many"):
            paths: list[Trajectory] = self.estimator.estimate_many([v.cpu() for v in video], cameras, mask)
            return paths
        given = zip(video, cameras, mask_list(mask, len(video)), strict=True)
        return [self.estimator.estimate(v.cpu(), c, m) for v, c, m in given]

    def _append(self, score: ClipScore, name: str | None) -> None:
        """Add one clip to the states and to the details of this process."""
        g = score.commanded[score.steps]
        obeyed = math.nan if score.obeyed is None else float(score.obeyed)
        sums = score.errors.sum(0) if len(score.steps) else torch.full((2,), math.nan, dtype=torch.float64)
        row = [_STATUS.index(score.status), len(score.commanded), len(score.steps), *sums.tolist(), score.scale, obeyed]
        self.clip.append(torch.tensor([row], dtype=torch.float64, device=self.device))
        scored = torch.full((len(g), 1), float(score.status == "scored"), dtype=torch.float64)
        rows = torch.cat([score.errors, g, score.estimated[score.steps], scored], 1)
        self.step.append(rows.to(self.device))
        self.details.append(_detail(score, name or f"clip_{len(self.details)}"))

    def reset(self) -> None:
        """Forget all clips."""
        super().reset()
        self.details = []

    def per_clip(self) -> list[dict[str, Any]]:
        """One row per clip seen by this process."""
        return list(self.details)

    def compute(self) -> dict[str, Tensor]:
        """All values, 0-d float64; nan where nothing was scored."""
        clip = _rows(self.clip, 7)
        step = _rows(self.step, 7)
        status = clip[:, 0].long()
        counted = status <= 1
        values = _errors(clip[counted], step)
        headline = "step" if self.protocol == "official" else "clip"
        values |= {"ex": values[f"ex_{headline}"], "ey": values[f"ey_{headline}"]}
        for number, name in ((1, "failed"), (2, "skipped"), (3, "stationary")):
            values[f"clips_{name}"] = float((status == number).sum())
        values["clips"] = float(len(clip))
        moving, scored = clip[status != 3], clip[status == 0]
        values["coverage_clips"] = _ratio(len(scored), len(moving))
        values["coverage_steps"] = _ratio(float(scored[:, 2].sum()), float(moving[:, 1].sum()))
        values["stationary_obeyed"] = _mean(clip[status == 3][:, 6])
        values["mean_step"] = _mean(step[:, 2:4].norm(dim=1))
        values["ex_relative"] = _ratio(values["ex"], values["mean_step"])
        values["ey_relative"] = _ratio(values["ey"], values["mean_step"])
        scale = scored[:, 5]
        values["scale_cv"] = _ratio(float(scale.std(correction=0)), float(scale.mean())) if len(scale) else math.nan
        values |= _regression(step[step[:, 6] == 1])
        return {k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in sorted(values.items())}


def _rows(state: list[Tensor] | Tensor, width: int) -> Tensor:
    """A cat state as one matrix, whatever form synchronisation left it in."""
    if isinstance(state, Tensor):
        return state.double()
    return torch.cat([s.double() for s in state]) if state else torch.zeros(0, width, dtype=torch.float64)


def _errors(clip: Tensor, step: Tensor) -> dict[str, float]:
    """Means over clips and over pooled steps."""
    by_clip = clip[:, 3:5] / clip[:, 2:3]
    return {
        "ex_clip": _mean(by_clip[:, 0]), "ey_clip": _mean(by_clip[:, 1]),
        "ex_step": _mean(step[:, 0]), "ey_step": _mean(step[:, 1]),
    }  # fmt: skip


def _regression(step: Tensor) -> dict[str, float]:
    """Ordinary least squares and Pearson correlation of the estimate on the command."""
    values: dict[str, float] = {}
    for axis, name in enumerate(("forward", "right")):
        slope = corr = math.nan
        if len(step) > 1:
            g, e = step[:, 2 + axis], step[:, 4 + axis]
            g, e = g - g.mean(), e - e.mean()
            vg, ve, cov = float(g.square().sum()), float(e.square().sum()), float((g * e).sum())
            slope = cov / vg if vg > 0 else math.nan
            corr = cov / math.sqrt(vg * ve) if vg > 0 and ve > 0 else math.nan
        values |= {f"slope_{name}": slope, f"corr_{name}": corr}
    return values


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _detail(score: ClipScore, name: str) -> dict[str, Any]:
    """Flat row of one clip, with the path errors other benchmarks report (ADE, FDE)."""
    from septet.kernels.egomotion import integrate_actions

    row = {"clip": name, "status": score.status, "reason": score.reason, "scale": score.scale}
    ex, ey = score.errors.mean(0).tolist() if len(score.steps) else (math.nan, math.nan)
    row |= {"errors": _by_step(score)}
    row |= {"ex": ex, "ey": ey, "steps": len(score.steps), "n": len(score.commanded), "obeyed": score.obeyed}
    ade = fde = math.nan
    if len(score.steps) == len(score.commanded) and score.status == "scored":
        gap = (integrate_actions(score.estimated) - integrate_actions(score.commanded))[1:, :2].norm(dim=1)
        ade, fde = float(gap.mean()), float(gap[-1])
    return row | {"ade": ade, "fde": fde, "commanded": score.commanded.tolist(), "estimated": score.estimated.tolist()}


def _by_step(score: ClipScore) -> list[list[float]]:
    """Absolute errors of every commanded step ``(n, 2)``, nan where a step does not count."""
    errors = torch.full((len(score.commanded), 2), math.nan, dtype=torch.float64)
    errors[score.steps] = score.errors
    rows: list[list[float]] = errors.tolist()
    return rows


def aif_with_controls(
    generate: Callable[[Tensor, Tensor], Tensor],
    clips: Iterable[dict[str, Any]],
    metric_factory: Callable[[], ActionInstructionFollowing],
    context: int = 1,
) -> dict[str, dict[str, float]]:
    """The model beside what makes its error readable.

    ``floor`` is the real video under the same estimator, ``static`` the first frame repeated, ``shuffled`` the video
    dreamed with the next clip's command, scored against the clip's own original command (``shuffled_own``: against
    the command it was dreamed with).

    Args:
        generate: (first frames ``(B, K, 3, H, W)``, actions ``(B, n, 2)``) -> ``(B, T, 3, H, W)`` uint8.
        clips: batches with ``frames``, ``actions`` and optionally ``camera``; at least two clips in a batch.
        metric_factory: a fresh metric.
        context: K.

    Raises:
        ValueError: a batch of one clip, which has no other command to shuffle in.
    """
    names = ("model", "floor", "static", "shuffled", "shuffled_own")
    metrics = {name: metric_factory() for name in names}
    for batch in clips:
        frames, actions = batch["frames"], batch["actions"]
        if len(frames) < 2:
            raise ValueError("a batch of one clip has no other command to shuffle in: use a larger batch_size")
        first, other = frames[:, :context], actions.roll(1, 0)
        wrong = generate(first, other)
        videos = {
            "model": (generate(first, actions), actions), "floor": (frames, actions),
            "static": (frames[:, :1].expand_as(frames), actions), "shuffled": (wrong, actions),
            "shuffled_own": (wrong, other),
        }  # fmt: skip
        for name, (video, command) in videos.items():
            metrics[name].update(video, command, camera=batch.get("camera"), clip_ids=batch.get("clip_id"))
    return {name: {k: float(v) for k, v in m.compute().items()} for name, m in metrics.items()}
