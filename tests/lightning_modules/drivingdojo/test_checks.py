"""What a run refuses before it trains or dreams, and the plan of its learning rate."""

from __future__ import annotations

import json
import shutil

import lightning.pytorch as pl
import pytest
from tests.datamodules.video.layouts import write_dojo, write_own
from tests.lightning_modules.drivingdojo import nets

from septet.datamodules.video import VideoClips
from septet.lightning_modules.drivingdojo.module import WorldModel

CAMERA = {"model": "PINHOLE", "params": [32, 32, 32, 16], "width": 64, "height": 32}


def trainer(folder, **settings):
    """A silent trainer of one process."""
    return pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder, **settings,
    )  # fmt: skip


def _model(**settings):
    return WorldModel(**{"frames": 4, "steps": 1, "net": nets.TINY} | settings)


def _data(**settings):
    return VideoClips(**{"clips": 4, "val_clips": 2, "test_clips": 2, "frames": 4, "batch_size": 2} | settings)


def _fit(folder, data, model=None, **settings):
    trainer(folder, **{"max_steps": 1} | settings).fit(model or _model(), data)


def test_a_longer_run_goes_on_where_a_finished_one_ended(tmp_path):
    model = _model()
    first = trainer(tmp_path, max_epochs=1)
    first.fit(model, _data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    longer = trainer(tmp_path, max_epochs=3)
    longer.fit(model, _data(), ckpt_path=tmp_path / "one.ckpt")
    schedule = longer.lr_scheduler_configs[0].scheduler
    assert (longer.global_step, schedule.last_epoch, schedule.total_steps) == (6, 6, 6)
    assert schedule.get_last_lr()[0] == pytest.approx(schedule.optimizer.param_groups[0]["min_lr"])


def test_steps_beyond_the_plan_keep_the_last_rate(tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(_model(), _data())
    schedule = run.lr_scheduler_configs[0].scheduler
    for _ in range(2):
        schedule.optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(schedule.optimizer.param_groups[0]["min_lr"])


def test_a_run_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"give trainer\.max_epochs or trainer\.max_steps"):
        _fit(tmp_path, _data(), max_steps=-1, max_epochs=-1, max_time="00:00:00:20")


def test_data_of_another_size_is_refused(tmp_path):
    for run in (lambda d: _fit(tmp_path, d), lambda d: trainer(tmp_path).test(_model(), d, verbose=False)):
        with pytest.raises(ValueError, match=r"data size \[64, 128\] beside model frame_size \[32, 64\]"):
            run(_data(size=(64, 128)))


def test_clips_shorter_than_the_training_window_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_frames=4 beside clips of 3 frames"):
        _fit(tmp_path, _data(frames=3), _model(train_frames=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_size": (34, 62)}, r"frame_size=\[34, 62\].* divide by 8"),
        ({"train_frames": 5}, "train_frames=5 must lie above context=1 and not above frames=4"),
    ],
)
def test_settings_that_never_work(settings, message):
    with pytest.raises(ValueError, match=message):
        _model(**settings)


def _own(root, camera, names="ab"):
    for name in names:
        write_own(root, name)
        if camera is not None:
            (root / f"{name}.json").write_text(json.dumps(camera))
    return _data(source="folder", root=str(root), fractions=(0.5, 0.5))


@pytest.mark.parametrize("aif", ["pycolmap", "opencv"])
def test_a_missing_camera_is_named_before_a_clip_is_dreamed(tmp_path, aif, monkeypatch):
    monkeypatch.setattr(WorldModel, "generate", None)
    data = _own(tmp_path / "own", None)
    with pytest.raises(ValueError, match=rf"clip '[ab]' has no camera, which aif '{aif}' needs: write [ab]\.json"):
        trainer(tmp_path).test(_model(aif=aif), data, verbose=False)


def test_a_fisheye_is_refused_by_opencv(tmp_path):
    write_dojo(tmp_path / "dojo", clips=2, frames=4)
    data = _data(source="drivingdojo", root=str(tmp_path / "dojo"))
    with pytest.raises(ValueError, match="OPENCV_FISHEYE, aif 'opencv' reads PINHOLE: use pycolmap"):
        trainer(tmp_path).test(_model(aif="opencv"), data, verbose=False)


def test_the_shipped_estimator_warns_of_other_video(tmp_path):
    pytest.importorskip("matplotlib")
    own = _own(tmp_path / "own", CAMERA, "abcd")
    with pytest.warns(UserWarning, match="'folder' video its metres mean little"):
        trainer(tmp_path).test(_model(aif="inverse_dynamics"), own, verbose=False)
    shutil.rmtree(tmp_path / "media")
    trainer(tmp_path).test(_model(aif="inverse_dynamics"), _data(), verbose=False)  # warnings are errors
    assert (tmp_path / "media" / "aif_clips.json").is_file()
