"""The inverse-dynamics task learns, exports a small file, and the estimator reads it."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from septet.datamodules.video import StreetSimulator, VideoClips
from septet.lightning_modules.drivingdojo.inverse import (
    InverseDynamics,
    InverseDynamicsEstimator,
    blurred,
    small_frames,
)


def test_fit_export_and_estimate(tmp_path):
    torch.manual_seed(0)
    data = VideoClips(clips=8, val_clips=2, test_clips=2, frames=4, batch_size=4)
    model = InverseDynamics(width=16)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, num_sanity_val_steps=0, **quiet)
    trainer.fit(model, data)
    assert trainer.global_step == 4
    (values,) = trainer.test(model, data, verbose=False)
    assert set(values) == {"test/ex", "test/ey", "test/yaw_deg"}
    clip = StreetSimulator().clip(1)
    path = InverseDynamicsEstimator(tmp_path / "inverse_dynamics.pt").estimate(clip.frames, clip.camera)
    with torch.no_grad():
        want = model.eval().predict_pairs(small_frames(clip.frames)[None])[0, 0, 0]
    assert path.C[1, 2].item() == pytest.approx(want.item(), abs=5e-3)
    assert path.valid.all()


def test_the_shipped_file_is_small():
    from importlib.resources import files

    file = files("septet.lightning_modules.drivingdojo") / "weights/inverse_dynamics.pt"
    assert len(file.read_bytes()) < 1_000_000


def test_frames_of_another_size_are_averaged():
    big = torch.full((2, 3, 64, 128), 255, dtype=torch.uint8)
    assert small_frames(big).shape == (2, 3, 32, 64)
    assert small_frames(big).min() == 1


def test_bad_learning_rate():
    with pytest.raises(ValueError, match="lr=0"):
        InverseDynamics(lr=0)


def test_blur_keeps_flat_frames_and_sharp_ones_where_it_is_zero():
    frames = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    soft = blurred(frames, torch.tensor([0.0, 0.5, 1.2]))
    torch.testing.assert_close(soft[0], frames[0])
    assert soft[2].std() < soft[1].std() < frames.std()
    torch.testing.assert_close(blurred(torch.full((1, 3, 32, 64), 0.3), torch.ones(1)), torch.full((1, 3, 32, 64), 0.3))
    with pytest.raises(ValueError, match="must not be negative"):
        InverseDynamics(blur=-1.0)
