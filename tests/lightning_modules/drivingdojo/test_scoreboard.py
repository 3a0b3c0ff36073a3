"""The controls of a test, what is kept of every clip, its pictures and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.datamodules.video.layouts import write_own
from tests.lightning_modules.drivingdojo import nets
from tests.lightning_modules.drivingdojo.test_checks import trainer

from septet.datamodules.video import VideoClips
from septet.lightning_modules.drivingdojo import media
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing, VideoFrechetDistance
from septet.lightning_modules.drivingdojo.module import WorldModel
from septet.lightning_modules.drivingdojo.poses import Trajectory
from septet.lightning_modules.drivingdojo.scoreboard import OtherCommands, strict_json


def _batch(*values):
    actions = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).expand(-1, 3, 2)
    return {"actions": actions, "yaw": actions[..., 0], "clip_id": [str(v) for v in values]}


def _given(others, *values):
    return [
        (name, float(a[0, 0]))
        for batch, actions, _ in others.pair(_batch(*values))
        for name, a in zip(batch["clip_id"], actions, strict=True)
    ]


def test_every_clip_is_driven_by_the_command_of_another():
    others = OtherCommands()
    assert _given(others, 1) == []
    assert others.left_out == 1
    assert _given(others, 2) == [("1", 2.0), ("2", 1.0)]
    assert _given(others, 3) == [("3", 2.0)]
    assert _given(others, 4, 5) == [("4", 5.0), ("5", 4.0)]
    assert _given(others, 6) == [("6", 5.0)]
    assert others.left_out == 0


def _test(folder, data, **settings):
    model = WorldModel(frames=4, steps=1, net=nets.TINY, aif="inverse_dynamics", **settings)
    run = trainer(folder)
    (values,) = run.test(model, data, verbose=False)
    return values, model, json.loads((folder / "media" / "aif_clips.json").read_text(), parse_constant=pytest.fail)


def test_batches_of_one_have_a_shuffled_control(tmp_path):
    pytest.importorskip("matplotlib")
    data = VideoClips(clips=2, val_clips=2, test_clips=3, frames=4, batch_size=1)
    values, model, rows = _test(tmp_path, data)
    assert values["test/shuffled_coverage_clips"] == 1
    by_case = {case: [r for r in rows if r["case"] == case] for case in ("model", "shuffled", "shuffled_own")}
    assert [len(r) for r in by_case.values()] == [3, 3, 3]
    own = {r["clip"]: r["commanded"] for r in by_case["model"]}
    for row in by_case["shuffled_own"]:
        assert row["commanded"] != own[row["clip"]]
        assert row["commanded"] in own.values()
    assert model.record_fields()["monitor"] == {"metric": "test/aif_ex", "mode": "min"}
    assert model.monitor == "val/loss"


def test_a_single_clip_has_no_shuffled_control_and_says_so(tmp_path):
    pytest.importorskip("matplotlib")
    data = VideoClips(clips=2, val_clips=2, test_clips=1, frames=4, batch_size=1)
    with pytest.warns(UserWarning, match="shuffled control: 1 clip left out"):
        values, _, rows = _test(tmp_path, data)
    assert "test/shuffled_ex" not in values
    assert {r["case"] for r in rows} == {"model", "floor", "static"}


def test_why_clips_are_not_scored_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    failed = lambda self, frames, camera, mask=None: Trajectory.failed(len(frames))  # noqa: E731
    monkeypatch.setattr("septet.lightning_modules.drivingdojo.inverse.InverseDynamicsEstimator.estimate", failed)
    data = VideoClips(clips=2, val_clips=2, test_clips=4, frames=4, batch_size=2)
    _, model, rows = _test(tmp_path, data)
    assert model.record_fields()["protocol"]["aif_not_scored"]["floor"] == "few_pairs 4"
    floor = [r for r in rows if r["case"] == "floor"]
    assert [r["reason"] for r in floor] == ["few_pairs"] * 4
    assert floor[0]["estimated"][0] == [None, None]


def test_numbers_json_does_not_know_become_null():
    assert strict_json({"a": [1.5, float("nan"), {"b": float("inf")}]}) == {"a": [1.5, None, {"b": None}]}


def test_a_process_without_clips_gathers_like_the_others():
    metric = ActionInstructionFollowing()
    metric.update(actions=[], trajectories=[])
    assert metric.clip[0].shape == metric.step[0].shape == (0, 7)
    assert metric.compute()["ex"].isnan()
    assert VideoFrechetDistance.__name__ == "VideoFrechetDistance"


def _rate(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate)


def test_predictions_keep_their_rate_and_each_other(tmp_path):
    pytest.importorskip("av")
    for name in "ab":
        write_own(tmp_path / "own", name, frames=4)
        (tmp_path / "own" / f"{name}.json").write_text('{"fps": 12}')
    for name, turn in (("left", -0.2), ("right", 0.2)):
        (tmp_path / f"{name}.csv").write_text(f"forward,right,yaw\n0.8,0,{turn}\n0.8,0,{turn}\n")
    model, run = WorldModel(frames=4, steps=1, net=nets.TINY), trainer(tmp_path)
    own = {"source": "folder", "root": str(tmp_path / "own"), "frames": 4}
    run.predict(model, VideoClips(**own))
    (mp4,) = (tmp_path / "media").glob("prediction_[ab].mp4")
    assert _rate(mp4) == 12
    for name in ("left", "right"):
        image = str(tmp_path / "own" / "a" / "0000.png")
        data = VideoClips(**own, predict_image=image, predict_actions=str(tmp_path / f"{name}.csv"))
        (rows,) = run.predict(model, data)
        assert rows[0]["yaw"] == pytest.approx(-0.2 if name == "left" else 0.2)
    kept = {p.name for p in (tmp_path / "media").iterdir()}
    assert {f"prediction_0000-{n}.{s}" for n in ("left", "right") for s in ("mp4", "csv")} <= kept


def test_rows_of_a_film_strip_are_labelled():
    clip = torch.zeros(2, 3, 16, 32, dtype=torch.uint8)
    plain, named = media.film_strip([clip, clip]), media.film_strip([clip, clip], labels=["real", "generated"])
    assert named.shape == (plain.shape[0], plain.shape[1] + 64, 3)
    assert np.array_equal(named[:, 64:], plain)
    assert (named[:34, :64] < 128).any()
    assert not np.array_equal(named[:34, :64], named[34:, :64])


def test_axes_and_columns_have_units():
    pytest.importorskip("matplotlib")
    figure = media.drift_figure({"psnr": [1.0], "colour": [2.0], "frd_random": [3.0]}, [(1, 4)])
    assert figure.axes[1].get_title() == "colour drift (grey levels)"
    table = media.controls_figure({"floor": {"ex": 0.1}}, {"floor": "scale 3"}).axes[0].tables[0]
    words = {cell.get_text().get_text() for cell in table.get_celld().values()}
    assert {"E_x (m)", "mean step (m)", "0.1000", "scale 3"} <= words
