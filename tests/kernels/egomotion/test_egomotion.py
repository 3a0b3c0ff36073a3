"""Ego motion against stored values and its own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.paths import golden

from septet.kernels.egomotion import (
    actions_from_poses,
    compose_actions,
    implied_yaw,
    integrate_actions,
    relative_motion,
)


@pytest.fixture(scope="module")
def stored():
    with np.load(golden("drivingdojo", "egomotion.npz")) as file:
        return {k: torch.from_numpy(file[k]) for k in file}


def _close(got, want, tolerance=1e-9):
    torch.testing.assert_close(got, want, atol=tolerance, rtol=0)


def test_paths(stored):
    _close(integrate_actions(stored["actions"], stored["yaw"]), stored["path"])
    _close(integrate_actions(stored["actions"]), stored["path_implied"])
    _close(implied_yaw(stored["actions"]), stored["implied_yaw"])


@pytest.mark.parametrize("stride", [2, 4, 7])
def test_composition(stored, stride):
    actions, yaw = compose_actions(stored["actions"], stored["yaw"], stride)
    _close(actions, stored[f"compose{stride}_actions"])
    _close(yaw, stored[f"compose{stride}_yaw"])
    batched, _ = compose_actions(stored["actions"].expand(3, 2, -1, -1), stored["yaw"].expand(3, 2, -1), stride)
    _close(batched[2, 1], actions)


def test_poses(stored):
    _close(relative_motion(stored["R"], stored["C"]), stored["relative_motion"])
    actions, yaw = actions_from_poses(stored["R"], stored["C"])
    _close(actions, stored["relative_motion"][:, [2, 0]])
    _close(yaw, stored["pose_yaw"])


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_composing_keeps_the_path(seed, stride):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    yaw = torch.randn(12, generator=generator, dtype=torch.float64) * 0.2
    fine = integrate_actions(actions, yaw)[::stride]
    coarse = integrate_actions(*compose_actions(actions, yaw, stride))
    _close(coarse, fine[: len(coarse)], 1e-9)


def test_chord_rule_follows_an_arc():
    turn, radius = 0.3, 10.0
    chord = 2 * radius * math.sin(turn / 2)
    action = torch.tensor([[chord * math.cos(turn / 2), chord * math.sin(turn / 2)]], dtype=torch.float64)
    assert implied_yaw(action).item() == pytest.approx(turn)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integrate_actions(torch.zeros(4, 3)), "expected"),
        (lambda: integrate_actions(torch.zeros(4, 2), torch.zeros(3)), "beside actions"),
        (lambda: compose_actions(torch.zeros(4, 2), None, 0), "below 1"),
        (lambda: relative_motion(torch.zeros(4, 3, 3), torch.zeros(5, 3)), "expected R"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
