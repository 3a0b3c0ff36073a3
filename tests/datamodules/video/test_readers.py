"""Readers: native layouts, pairing by number, poses, and errors that name the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datamodules.video.layouts import write_dojo, write_own
from tests.support.paths import golden, shared_data

from septet.datamodules.video import Comma2k19Reader, DrivingDojoReader, FolderReader, KittiReader, StreetSimulator
from septet.datamodules.video.decode import read_image, write_video
from septet.kernels.egomotion import compose_actions, implied_yaw


def test_drivingdojo(tmp_path):
    samples = write_dojo(tmp_path)
    reader = DrivingDojoReader(tmp_path)
    assert reader.clips == sorted(samples)
    clip = reader.clips[0]
    got = reader.read(clip, size=(32, 64))
    torch.testing.assert_close(got.actions, samples[clip].actions, atol=1e-6, rtol=1e-6)
    assert got.frames.shape == (9, 3, 32, 64)
    assert (got.camera.model, got.camera.width, got.fps) == ("OPENCV_FISHEYE", 64, 5.0)
    assert (got.subset, got.text) == ("turn", "a turn")
    whole = reader.read(clip).frames.float()
    assert (whole - samples[clip].frames.float()).abs().mean() < 6
    actions, yaw = reader.motion(clip, start=1, frames=3, stride=2)
    steps = samples[clip].actions[1:5].double()
    want = compose_actions(steps, implied_yaw(steps), 2)
    torch.testing.assert_close(actions, want[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(yaw, want[1], atol=1e-6, rtol=1e-6)
    assert reader.read(clip, 0, 3, 2).fps == 2.5


def test_drivingdojo_pairs_by_number(tmp_path):
    write_dojo(tmp_path, clips=1)
    reader = DrivingDojoReader(tmp_path)
    clip = reader.clips[0]
    before = reader.motion(clip)[0]
    next((tmp_path / "videos" / clip).glob("0030_*")).unlink()
    assert torch.equal(DrivingDojoReader(tmp_path).motion(clip)[0][3], before[4])
    next((tmp_path / "action_info" / clip).glob("0040_*")).unlink()
    with pytest.raises(ValueError, match="no action for frame 40"):
        DrivingDojoReader(tmp_path).motion(clip)


def test_drivingdojo_bad_files(tmp_path):
    write_dojo(tmp_path, clips=1)
    reader = DrivingDojoReader(tmp_path)
    clip = reader.clips[0]
    with pytest.raises(ValueError, match=r"length 9, a window of 10"):
        reader.read(clip, 0, 10)
    with pytest.raises(ValueError, match="no clip 'x'"):
        reader.read("x")
    with pytest.raises(ValueError, match="no camera files"):
        DrivingDojoReader(tmp_path, camera_info=lambda *_: None).read(clip)
    image = next((tmp_path / "videos" / clip).glob("0020_*"))
    image.write_bytes(image.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"{image.name} is a truncated JPEG"):
        reader.read(clip)
    action = next((tmp_path / "action_info" / clip).glob("0000_*"))
    action.write_text("[0.1 0.2]")
    with pytest.raises(ValueError, match=f"{action.name}: malformed action"):
        DrivingDojoReader(tmp_path).motion(clip)


def test_comma2k19_golden():
    reader = Comma2k19Reader(shared_data("video/comma2k19_example1"))
    with np.load(golden("drivingdojo", "comma2k19_actions.npz")) as file:
        actions, yaw = reader.motion(reader.clips[0], int(file["start"]), len(file["frame_idx"]), int(file["stride"]))
        assert np.abs(actions.numpy() - file["actions_frd"][:, :2]).max() < 1e-5
        assert np.abs(yaw.numpy() - file["yaw"]).max() < 1e-6
        speed = actions.norm(dim=1).numpy() / file["dt"]
        assert np.sqrt(np.mean((speed - file["can_speed"]) ** 2)) < 0.16


def test_comma2k19_video(tmp_path):
    pytest.importorskip("av")
    clip = StreetSimulator(64, 96, supersample=1).clip(0, 6)
    pose = tmp_path / "global_pose"
    pose.mkdir()
    for name, width in (("positions", 3), ("orientations", 4)):
        array = np.zeros((6, width))
        array[:, 0] = 1 if width == 4 else np.arange(6)
        with (pose / f"frame_{name}").open("wb") as handle:
            np.save(handle, array)
    write_video(tmp_path / "video.hevc", clip.frames.numpy(), 20, container_format="hevc")
    reader = Comma2k19Reader(tmp_path)
    got = reader.read(reader.clips[0], 1, 2, 2)
    assert got.actions.tolist() == [[2.0, 0.0]]
    assert (got.frames.float() - clip.frames[[1, 3]].float()).abs().mean() < 8
    assert reader.read(reader.clips[0], 0, 2, 1, size=(32, 48)).frames.shape == (2, 3, 32, 48)


def test_kitti():
    reader = KittiReader(shared_data("video/kitti_odo_a"))
    clip = reader.clips[0]
    assert reader.length(clip) == 51
    got = reader.read(clip, 0, 4, 2, size=(92, 306))
    assert got.frames.shape == (4, 3, 92, 306)
    assert torch.equal(got.frames[:, 0], got.frames[:, 2])
    assert got.fps == 5.0
    assert got.actions[:, 0].mean() == pytest.approx(2.4, abs=0.05)
    assert got.camera.params[0] == pytest.approx(707.0912 * 306 / 1226)


def test_own_folder_with_motions(tmp_path):
    clip = write_own(tmp_path, "a", "forward,right,yaw", ["1,0,0.1", "2,0.1,0", "1,0,0"])
    camera = {"fps": 10, "model": "PINHOLE", "params": [32, 32, 32, 16], "width": 64, "height": 32}
    (tmp_path / "a.json").write_text(json.dumps(camera))
    got = FolderReader(tmp_path).read("a")
    assert torch.equal(got.frames, clip.frames)
    assert got.yaw.tolist() == pytest.approx([0.1, 0, 0])
    assert (got.fps, got.camera.params[0]) == (10, 32)


def test_own_mp4_with_poses(tmp_path):
    pytest.importorskip("av")
    rows = [f"0,0,{t},1,0,0,0" for t in range(4)]
    clip = write_own(tmp_path, "a", "x,y,z,qw,qx,qy,qz", rows, video=True)
    got = FolderReader(tmp_path).read("a")
    assert got.actions.tolist() == [[1.0, 0.0]] * 3
    assert (got.frames.float() - clip.frames.float()).abs().mean() < 10


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("speed,yaw", ["1,0"] * 3, "header"),
        ("forward,right", ["1,0"] * 2, "2 rows, 4 frames need 3"),
        ("forward,right", ["1,0", "1,x", "1,0"], "row 2"),
        ("forward,right", ["1,0", "1", "1,0"], "1 columns"),
        ("forward,right", ["1,0", "inf,0", "1,0"], "not finite"),
    ],
)
def test_own_bad_tables(tmp_path, header, rows, message):
    write_own(tmp_path, "a", header, rows)
    with pytest.raises(ValueError, match=message):
        FolderReader(tmp_path).read("a")


def test_own_images_need_a_leading_number(tmp_path):
    write_own(tmp_path)
    for file in (tmp_path / "a").iterdir():
        file.rename(file.with_name(f"frame_{file.name}"))
    with pytest.raises(ValueError, match=r"named by its number .* 4 others such as frame_0000\.png"):
        FolderReader(tmp_path).length("a")


def test_a_quaternion_that_is_none_names_its_row(tmp_path):
    rows = [f"0,0,{t},{w},0,0,0" for t, w in enumerate((1, 1, 0, 1))]
    write_own(tmp_path, "a", "x,y,z,qw,qx,qy,qz", rows)
    with pytest.raises(ValueError, match=r"a\.csv, row 3: a quaternion of norm 0"):
        FolderReader(tmp_path).length("a")


def test_an_image_that_ends_early_is_found_before_training(tmp_path):
    write_own(tmp_path)
    file = tmp_path / "a" / "0002.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"0002\.png is a truncated PNG"):
        FolderReader(tmp_path).length("a")


def test_an_mp4_in_capitals_is_a_clip(tmp_path):
    pytest.importorskip("av")
    write_own(tmp_path, video=True)
    (tmp_path / "a.mp4").rename(tmp_path / "a.MP4")
    assert FolderReader(tmp_path).read("a").frames.shape == (4, 3, 32, 64)


def test_sequences_behind_links_are_listed_once(tmp_path):
    for name in ("k1", "k2"):
        (tmp_path / "far" / name).mkdir(parents=True)
        (tmp_path / "far" / name / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    (tmp_path / "root" / "day").mkdir(parents=True)
    (tmp_path / "root" / "day" / "k1").symlink_to(tmp_path / "far" / "k1")
    (tmp_path / "root" / "day" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "far" / "k2").rename(tmp_path / "root" / "k2")
    assert KittiReader(tmp_path / "root").clips == ["day/k1", "k2"]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        KittiReader(tmp_path / "none")
    with pytest.raises(ValueError, match="no clip this reader knows"):
        DrivingDojoReader(tmp_path)


def test_reduced_decoding_is_close_to_a_full_one(tmp_path):
    frame = StreetSimulator(128, 256, supersample=1).clip(0, 1).frames[0]
    path = tmp_path / "a.jpg"
    Image.fromarray(frame.numpy().transpose(1, 2, 0)).save(path, quality=95)
    small = torch.from_numpy(read_image(path, (32, 64))).float()
    want = torch.nn.functional.avg_pool2d(frame.float(), 4)
    assert (small - want).abs().mean() < 6
