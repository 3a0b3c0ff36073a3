"""The street simulator: exact motion, determinism, and what the arguments change."""

from __future__ import annotations

import pytest
import torch

from septet.datamodules.video import StreetSimulator
from septet.kernels.egomotion import actions_from_poses


def test_motion_is_exact_and_within_the_street():
    for seed in range(40):
        clip = StreetSimulator(8, 16).clip(seed, 12)
        actions, yaw = actions_from_poses(clip.R, clip.C)
        torch.testing.assert_close(actions.float(), clip.actions, atol=1e-6, rtol=0)
        torch.testing.assert_close(yaw.float(), clip.yaw, atol=1e-6, rtol=0)
        assert clip.C[:, 0].abs().max() <= 5.5


def test_a_seed_is_a_clip():
    renderer = StreetSimulator()
    first = renderer.clip(3)
    assert torch.equal(first.frames, StreetSimulator().clip(3).frames)
    assert not torch.equal(first.frames, renderer.clip(4).frames)
    assert first.frames.shape == (8, 3, 32, 64)
    assert first.frames.dtype == torch.uint8


def test_given_actions_are_driven():
    actions = torch.tensor([[1.0, 0.0], [0.5, 0.1], [0.0, 0.0]])
    clip = StreetSimulator(movers=1).clip(5, actions=actions, yaw=torch.tensor([0.0, 0.3, 0.0]))
    assert torch.equal(clip.actions, actions)
    assert clip.yaw.tolist() == pytest.approx([0.0, 0.3, 0.0])
    assert not torch.equal(clip.frames[1], clip.frames[2])
    still = StreetSimulator().clip(5, actions=torch.zeros(2, 2))
    assert torch.equal(still.frames[0], still.frames[2])


def test_movers_move_in_a_still_clip():
    still = StreetSimulator(64, 128, movers=3).clip(1, actions=torch.zeros(3, 2))
    assert not torch.equal(still.frames[0], still.frames[3])


def test_fisheye_and_camera():
    wide = StreetSimulator(32, 64, fov_deg=120, camera_model="OPENCV_FISHEYE")
    assert wide.camera.model == "OPENCV_FISHEYE"
    assert wide.camera.params[2:4] == (32, 16)
    assert wide.clip(0, 2).frames.float().std() > 5
    half = StreetSimulator().camera.resized(32, 16)
    assert half.params[0] == pytest.approx(16)
    assert half.params[2:4] == (16, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StreetSimulator(height=1), "too small"),
        (lambda: StreetSimulator(fov_deg=179), "fov_deg"),
        (lambda: StreetSimulator(camera_height=0), "above 0"),
        (lambda: StreetSimulator().clip(0, 0), "frames=0"),
        (lambda: StreetSimulator().clip(0, actions=torch.zeros(3)), "expected"),
        (lambda: StreetSimulator().clip(0, actions=torch.full((3, 2), float("nan"))), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
