"""Batches: keys, determinism, splits, workers, cache and predictions."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tests.datamodules.video.layouts import write_dojo, write_own

from septet.datamodules.video import StreetSimulator, VideoClips


def _epoch(data, epoch):
    loader = data.train_dataloader()
    loader.batches.set_epoch(epoch)
    return list(loader)


def _same(a, b):
    return all(
        torch.equal(x["frames"], y["frames"]) and torch.equal(x["actions"], y["actions"])
        for x, y in zip(a, b, strict=True)
    )


def test_simulated_batches():
    data = VideoClips(clips=6, val_clips=2, test_clips=2, frames=4, batch_size=4)
    data.setup()
    batches = _epoch(data, 0)
    assert [len(b["clip_id"]) for b in batches] == [4, 2]
    assert batches[0]["frames"].shape == (4, 4, 3, 32, 64)
    assert batches[0]["actions"].shape == (4, 3, 2)
    assert not batches[0]["yaw"].isnan().any()
    assert _same(batches, _epoch(VideoClips(clips=6, val_clips=2, test_clips=2, frames=4, batch_size=4), 0))
    ids = [
        {c for b in loader for c in b["clip_id"]} for loader in (batches, data.val_dataloader(), data.test_dataloader())
    ]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[2]


def test_recorded_windows_do_not_depend_on_workers(tmp_path):
    write_dojo(tmp_path, clips=10, frames=7, size=(16, 32))
    settings = {"source": "drivingdojo", "root": str(tmp_path), "frames": 3, "size": (8, 16), "batch_size": 4}
    here, there = VideoClips(**settings), VideoClips(**settings, num_workers=2)
    assert _same(_epoch(here, 3), _epoch(there, 3))
    starts = {b["frames"].sum().item() for e in range(4) for b in _epoch(here, e)}
    assert len(starts) > 4
    train = {c.split("_")[0] for b in _epoch(here, 0) for c in b["clip_id"]}
    val = {c.split("_")[0] for b in here.val_dataloader() for c in b["clip_id"]}
    assert (len(train), len(val)) == (9, 1)
    assert not train & val


def test_cache_changes_nothing(tmp_path):
    write_dojo(tmp_path / "data", clips=2, frames=7, size=(16, 32))
    settings = {"source": "drivingdojo", "root": str(tmp_path / "data"), "frames": 3, "stride": 2, "size": (8, 16)}
    plain = _epoch(VideoClips(**settings, fractions=(0.5, 0.5)), 1)
    for _ in range(2):
        cached = VideoClips(**settings, fractions=(0.5, 0.5), cache_dir=str(tmp_path / "cache"))
        assert _same(_epoch(cached, 1), plain)
    assert list((tmp_path / "cache").glob("frames-*.npy"))
    simulated = {"clips": 3, "val_clips": 1, "test_clips": 1, "frames": 3}
    fresh = _epoch(VideoClips(**simulated), 0)
    for _ in range(2):
        assert _same(_epoch(VideoClips(**simulated, cache_dir=str(tmp_path / "cache")), 0), fresh)


def test_replaced_images_are_read_anew(tmp_path):
    settings = {"source": "folder", "root": str(tmp_path / "own"), "frames": 4, "batch_size": 4}
    settings |= {"cache_dir": str(tmp_path / "cache"), "fractions": (0.5, 0.5)}
    for seed in (0, 10):
        clips = {name: write_own(tmp_path / "own", name, seed=seed + n) for n, name in enumerate("ab")}
        (batch,) = _epoch(VideoClips(**settings), 0)
        assert torch.equal(batch["frames"][0], clips[batch["clip_id"][0]].frames)


def test_one_vehicle_is_said_and_recorded(tmp_path):
    for n in range(3):
        write_own(tmp_path, f"drive_{n}")
    data = VideoClips("folder", str(tmp_path), frames=4)
    with pytest.warns(UserWarning, match=r"all 3 clips are of one vehicle \('drive'"):
        data.setup()
    assert data.record_dataset()["split"] == "one vehicle: train, val and test hold the same clips"
    for n in range(2):
        write_own(tmp_path / "two", f"drive{n}")
    data = VideoClips("folder", str(tmp_path / "two"), frames=4)
    data.setup()
    assert data.record_dataset()["split"].startswith("by vehicle")


def test_what_is_left_out_is_said(tmp_path):
    for name in "abc":
        write_own(tmp_path, name)
    (tmp_path / "c.csv").unlink()
    with pytest.warns(UserWarning, match=r"left out: c: no c\.csv beside it"):
        VideoClips("folder", str(tmp_path), frames=4).setup()


@pytest.mark.parametrize("clips", ["ab", "abc", "abcd"])
def test_a_few_own_clips_leave_none_of_the_parts_empty(tmp_path, clips):
    for name in clips:
        write_own(tmp_path, name)
    data = VideoClips("folder", str(tmp_path), frames=4)
    data.setup()
    assert (len(data.part("train")), len(data.part("val"))) == (len(clips) - 1, 1)


def test_batches_carry_the_frame_rate_after_the_stride(tmp_path):
    for name in "ab":
        write_own(tmp_path, name, frames=5)
        (tmp_path / f"{name}.json").write_text('{"fps": 10}')
    (batch,) = _epoch(VideoClips("folder", str(tmp_path), frames=2, stride=4), 0)
    assert batch["fps"] == [2.5]


def test_prediction_prompt(tmp_path):
    frame = StreetSimulator().clip(0, 1).frames[0]
    Image.fromarray(frame.numpy().transpose(1, 2, 0)).save(tmp_path / "start.png")
    (tmp_path / "drive.csv").write_text("forward,right\n0.8,0\n0.8,0.04\n")
    data = VideoClips(predict_image=str(tmp_path / "start.png"), predict_actions=str(tmp_path / "drive.csv"))
    (batch,) = list(data.predict_dataloader())
    assert torch.equal(batch["frames"][0, 0], frame)
    assert batch["actions"].shape == (1, 2, 2)
    assert batch["yaw"].isnan().all()
    (tmp_path / "turn.csv").write_text("forward,right,yaw\n0.8,0,0.2\n0.8,0,-0.1\n")
    data.predict_actions = str(tmp_path / "turn.csv")
    (turn,) = list(data.predict_dataloader())
    assert turn["yaw"].tolist()[0] == pytest.approx([0.2, -0.1])
    assert turn["clip_id"] != batch["clip_id"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.8\n0.9", "row 1: 1 columns beside a header of 2"),
        ("0.8,0\n0.9", "row 2: 1 columns beside a header of 2"),
        ("0.8,0\n0.8,nan", "row 2: 0.8,nan holds values that are not finite"),
        ("\n\n", "no rows under the header"),
    ],
)
def test_bad_rows_of_a_prompt_are_named(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(f"forward,right\n{rows}\n")
    data = VideoClips(predict_image=str(tmp_path / "a.csv"), predict_actions=str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match=rf"a\.csv.*{message}"):
        data.predict_dataloader()


def test_bad_prompt(tmp_path):
    (tmp_path / "a.csv").write_text("speed\n1\n")
    (tmp_path / "a.png").write_bytes(b"no image")
    data = VideoClips(predict_image=str(tmp_path / "a.png"), predict_actions=str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="expected a header"):
        data.predict_dataloader()
    (tmp_path / "a.csv").write_text("forward,right\n1,0\n")
    with pytest.raises(ValueError, match="cannot be decoded"):
        data.predict_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "nuscenes"}, "unknown source"),
        ({"source": "kitti"}, "needs a root"),
        ({"frames": 1}, "frames=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"predict_image": "a.png"}, "belong together"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VideoClips(**settings)


def test_a_missing_root():
    with pytest.raises(FileNotFoundError, match="check the path"):
        VideoClips("folder", "no/such/folder").setup()
