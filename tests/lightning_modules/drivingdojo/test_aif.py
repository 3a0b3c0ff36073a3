"""AIF: what it must not depend on, what it must notice, its controls and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.datamodules.video import StreetSimulator
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing, aif_with_controls, score_clip
from septet.lightning_modules.drivingdojo.scoring import l1_scale
from septet.lightning_modules.drivingdojo.trajectory import (
    InverseDynamicsEstimator,
    OracleEstimator,
    Trajectory,
)

ACCELERATING = torch.stack([torch.linspace(0.3, 1.3, 11), torch.linspace(0.02, 0.12, 11)], -1)


def _oracle(clip):
    return Trajectory(clip.R, clip.C, torch.ones(len(clip.C)).bool())


@pytest.mark.parametrize("protocol", ["strict", "paper", "official"])
def test_oracle_on_the_simulator(protocol):
    metric = ActionInstructionFollowing(None, protocol)
    for seed in range(12):
        clip = StreetSimulator(8, 16, supersample=1).clip(seed, 12)
        metric.estimator = OracleEstimator(clip.R, clip.C)
        metric.update(clip.frames[None], clip.actions[None], camera=clip.camera, clip_ids=[clip.clip_id])
    values = metric.compute()
    assert values["ex"] < 1e-5
    assert values["ey"] < 1e-5
    assert values["clips_failed"] == 0
    assert len(metric.per_clip()) == 12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 20))
def test_rotation_shift_and_scale_do_not_matter(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    path = Trajectory.from_actions(ACCELERATING + 0.02 * torch.randn(11, 2, generator=generator))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn)
    moved = Trajectory(turn @ path.R, scale * path.C @ turn.T + torch.randn(3, generator=generator), path.valid)
    for protocol in ("strict", "paper", "official"):
        a, b = score_clip(ACCELERATING, path, protocol), score_clip(ACCELERATING, moved, protocol)
        assert a.status == b.status
        torch.testing.assert_close(a.errors, b.errors, atol=1e-6, rtol=1e-5)


def test_shifted_and_mirrored_actions_are_noticed():
    clip = StreetSimulator(8, 16, supersample=1).clip(0, actions=ACCELERATING)
    right = score_clip(ACCELERATING, _oracle(clip)).errors.mean(0)
    shifted = score_clip(ACCELERATING.roll(1, 0), _oracle(clip)).errors.mean(0)
    mirrored = score_clip(ACCELERATING * torch.tensor([1, -1]), _oracle(clip)).errors.mean(0)
    assert right.max() < 1e-5
    assert shifted[0] > 0.05
    assert mirrored[1] > 0.1
    assert mirrored[0] < 1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_l1_scale_is_the_minimum(seed, n):
    generator = torch.Generator().manual_seed(seed)
    g, d = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    scale = l1_scale(g, d)
    ratios = torch.cat([(g / d).flatten().clamp_min(0), torch.zeros(1)])
    costs = [(g - s * d).abs().sum().item() for s in ratios]
    assert (g - scale * d).abs().sum().item() == pytest.approx(min(costs))
    assert math.isnan(l1_scale(g, d * 0))


def test_a_failed_clip_counts_as_standing_still():
    score = score_clip(ACCELERATING, Trajectory.failed(12))
    assert (score.status, score.reason) == ("failed", "few_pairs")
    torch.testing.assert_close(score.errors, ACCELERATING.double())
    assert score_clip(ACCELERATING, Trajectory.failed(12), "paper").status == "skipped"


def test_the_shipped_estimator_and_the_controls():
    clips = [StreetSimulator().clip(900_000_000 + s) for s in range(8)]
    batch = {"frames": torch.stack([c.frames for c in clips]), "actions": torch.stack([c.actions for c in clips])}

    def perfect(first, actions):
        """A world model that knows the street: it renders the command from the clip's own start."""
        by_start = {c.frames[0].sum().item(): int(c.clip_id.split("_")[1]) for c in clips}
        seeds = [by_start[f[0].sum().item()] for f in first]
        return torch.stack([StreetSimulator().clip(s, actions=a).frames for s, a in zip(seeds, actions, strict=True)])

    estimator = InverseDynamicsEstimator()
    values = aif_with_controls(perfect, [batch], lambda: ActionInstructionFollowing(estimator, metric_scale=True))
    assert values["floor"]["ex"] < 0.12
    assert values["floor"]["ey"] < 0.005
    assert values["model"]["ex"] == pytest.approx(values["floor"]["ex"], rel=0.6, abs=0.02)
    assert values["static"]["ex"] > 4 * values["model"]["ex"]
    assert values["shuffled"]["ex"] > 3 * values["shuffled_own"]["ex"]


def test_a_stop_command_is_obeyed_by_standing():
    still = StreetSimulator().clip(3, actions=torch.zeros(7, 2))
    moving = StreetSimulator().clip(3, actions=torch.tensor([[1.0, 0.0]]).repeat(7, 1))
    metric = ActionInstructionFollowing(InverseDynamicsEstimator(), metric_scale=True)
    metric.update(torch.stack([still.frames, moving.frames]), torch.zeros(2, 7, 2))
    values = metric.compute()
    assert values["clips_stationary"] == 2
    assert values["stationary_obeyed"] == 0.5
    assert values["ex"].isnan()


def test_official_pools_steps_and_strict_means_clips():
    short, long = ACCELERATING[:5], ACCELERATING
    paths = [Trajectory.from_actions(short * 1.0), Trajectory.from_actions(long + torch.linspace(0, 0.3, 11)[:, None])]
    for protocol, key in (("strict", "ex_clip"), ("official", "ex_step")):
        metric = ActionInstructionFollowing(protocol=protocol)
        metric.update(actions=[short, long], trajectories=paths)
        values = metric.compute()
        assert values["ex"] == values[key]
        assert values["ex_clip"] != values["ex_step"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: score_clip(ACCELERATING, Trajectory.failed(12), "loose"), "unknown protocol"),
        (lambda m: score_clip(ACCELERATING[:, :1], Trajectory.failed(12)), "expected"),
        (lambda m: score_clip(ACCELERATING * math.nan, Trajectory.failed(12)), "not finite"),
        (lambda m: score_clip(ACCELERATING, Trajectory.failed(9)), "11 commands beside"),
        (lambda m: score_clip(ACCELERATING[:3], Trajectory.failed(4), "official"), "at least 5 steps"),
        (lambda m: Trajectory(torch.zeros(3, 3, 3), torch.zeros(4, 3), torch.ones(4)), "trajectory of shapes"),
        (lambda m: m.update(torch.zeros(1, 2, 3, 8, 8)), "needs actions"),
        (lambda m: m.update(actions=[ACCELERATING]), "video or trajectories"),
        (lambda m: m.update(torch.zeros(1, 12, 3, 8, 8), [ACCELERATING]), "no estimator"),
        (lambda m: m.update(actions=[ACCELERATING], trajectories=[]), "1 lists of actions beside 0"),
        (lambda m: ActionInstructionFollowing(protocol="loose"), "unknown protocol"),
        (lambda m: OracleEstimator(torch.zeros(3, 3, 3), torch.zeros(3, 3)).estimate(torch.zeros(4)), "4 frames"),
        (
            lambda m: aif_with_controls(None, [{"frames": torch.zeros(1), "actions": torch.zeros(1)}], lambda: m),
            "one clip",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(ActionInstructionFollowing())
