"""Broken recordings: every branch names the file or clip, none is skipped in silence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datamodules.video.layouts import write_dojo

from septet.datamodules.video import StreetSimulator, VideoClips
from septet.datamodules.video.decode import read_image, read_video, write_video
from septet.datamodules.video.readers import Comma2k19Reader, DrivingDojoReader, FolderReader, KittiReader
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.trajectory import OpenCVEstimator


def _kitti(root, frames=3):
    (root / "image_2").mkdir()
    for t in range(frames):
        Image.fromarray(np.full((8, 16, 3), 10 * t, np.uint8)).save(root / "image_2" / f"{t:06d}.png")
    (root / "poses.txt").write_text("\n".join(f"1 0 0 0 0 1 0 0 0 0 1 {t}" for t in range(frames)))
    (root / "calib.txt").write_text("P0: 7 0 8 0 0 7 4 0 0 0 1 0\n")
    return root


def test_kitti_is_read_when_whole(tmp_path):
    reader = KittiReader(_kitti(tmp_path))
    assert reader.read(reader.clips[0]).actions.tolist() == [[1.0, 0.0]] * 2


def test_kitti_without_its_camera_file(tmp_path):
    (_kitti(tmp_path) / "calib.txt").unlink()
    reader = KittiReader(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no camera file .*calib\.txt"):
        reader.read(reader.clips[0])


def test_kitti_with_a_short_camera_row(tmp_path):
    (_kitti(tmp_path) / "calib.txt").write_text("P0: 7 0 8\n")
    reader = KittiReader(tmp_path)
    with pytest.raises(ValueError, match=r"calib\.txt: expected 12 numbers"):
        reader.read(reader.clips[0])


@pytest.mark.parametrize("row", ["1 2 x", "1 2 3"])
def test_kitti_with_a_malformed_pose(tmp_path, row):
    (_kitti(tmp_path) / "poses.txt").write_text(row + "\n")
    reader = KittiReader(tmp_path)
    with pytest.raises(ValueError, match=r"poses\.txt: expected 12 numbers"):
        reader.motion(reader.clips[0])


def test_kitti_without_images(tmp_path):
    for file in (_kitti(tmp_path) / "image_2").iterdir():
        file.unlink()
    (tmp_path / "image_2").rmdir()
    reader = KittiReader(tmp_path)
    with pytest.raises(FileNotFoundError, match="no image_2 or image_0"):
        reader.read(reader.clips[0])


def _segment(root, positions=4, orientations=4):
    (root / "global_pose").mkdir()
    for name, count, width in (("positions", positions, 3), ("orientations", orientations, 4)):
        rows = np.zeros((count, width))
        rows[:, 0] = 1
        with (root / "global_pose" / f"frame_{name}").open("wb") as handle:
            np.save(handle, rows)
    return root


def test_comma_with_unequal_columns(tmp_path):
    reader = Comma2k19Reader(_segment(tmp_path, 4, 3))
    with pytest.raises(ValueError, match="4 positions beside 3 orientations"):
        reader.length(reader.clips[0])


def test_comma_without_orientations(tmp_path):
    (_segment(tmp_path) / "global_pose/frame_orientations").unlink()
    reader = Comma2k19Reader(tmp_path)
    with pytest.raises(FileNotFoundError, match="frame_orientations: the segment is incomplete"):
        reader.length(reader.clips[0])


def test_comma_with_a_file_that_is_no_array(tmp_path):
    (_segment(tmp_path) / "global_pose/frame_positions").write_bytes(b"text, not an array")
    reader = Comma2k19Reader(tmp_path)
    with pytest.raises(ValueError, match="frame_positions is not a numpy array"):
        reader.length(reader.clips[0])


def test_comma_with_a_malformed_number_of_frames(tmp_path):
    reader = Comma2k19Reader(_segment(tmp_path))
    (tmp_path / "video.frames").write_text("3\n")
    assert reader.length(reader.clips[0]) == 3
    (tmp_path / "video.frames").write_text("three\n")
    with pytest.raises(ValueError, match=r"video\.frames holds 'three'"):
        reader.length(reader.clips[0])


def test_poses_that_are_not_finite(tmp_path):
    (_kitti(tmp_path) / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 nan\n")
    reader = KittiReader(tmp_path)
    with pytest.raises(ValueError, match=r"poses\.txt holds values that are not finite"):
        reader.motion(reader.clips[0])


def test_comma_without_its_video(tmp_path):
    pytest.importorskip("av")
    reader = Comma2k19Reader(_segment(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no video .*video\.hevc"):
        reader.read(reader.clips[0])


def test_videos_that_end_early_or_are_none(tmp_path):
    pytest.importorskip("av")
    frames = StreetSimulator(64, 96, supersample=1).clip(0, 3).frames.numpy()
    write_video(tmp_path / "a.mp4", frames, 5, codec="libx264")
    with pytest.raises(ValueError, match=r"a\.mp4 ends before frame 5"):
        read_video(tmp_path / "a.mp4", [0, 5])
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"b\.mp4 is not a video"):
        read_video(tmp_path / "b.mp4", [0])
    with pytest.raises(ValueError, match="at least 64x64"):
        write_video(tmp_path / "c.hevc", frames[..., :32, :48], 20)


@pytest.mark.parametrize("without_opencv", [False, True])
def test_images(tmp_path, monkeypatch, without_opencv):
    if without_opencv:
        monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    assert read_image(path, (16, 16)).shape == (3, 16, 16)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg is a truncated JPEG"):
        read_image(path, (16, 16))
    path.write_bytes(b"\xff\xd8 no picture \xff\xd9")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        read_image(path)
    with pytest.raises(FileNotFoundError, match=r"no image .*b\.jpg"):
        read_image(tmp_path / "b.jpg")


def test_a_folder_of_actions_that_is_missing(tmp_path):
    write_dojo(tmp_path, clips=1, frames=3, size=(16, 32))
    clip = DrivingDojoReader(tmp_path).clips[0]
    (tmp_path / "action_info").rename(tmp_path / "actions")
    with pytest.raises(ValueError, match=r"has no action for frame 0 \(0000_Camera"):
        DrivingDojoReader(tmp_path).motion(clip)


def test_own_camera_files(tmp_path):
    (tmp_path / "a").mkdir()
    for t in range(2):
        Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "a" / f"{t}.png")
    (tmp_path / "a.csv").write_text("forward,right\n1,0\n")
    (tmp_path / "a.json").write_text(json.dumps({"model": "PINHOLE", "params": [1, 1, 1, 1]}))
    with pytest.raises(ValueError, match=r"a\.json names a camera model but lacks width, height"):
        FolderReader(tmp_path).read("a")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        FolderReader(tmp_path).read("a")


def test_a_clip_shorter_than_the_window_is_named_before_training(tmp_path):
    samples = write_dojo(tmp_path, clips=4, frames=5, size=(16, 32))
    data = VideoClips("drivingdojo", str(tmp_path), frames=6, size=(16, 32), fractions=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"has length 5, a window of 6 at stride 1 needs 6 frames") as error:
        data.setup()
    assert any(name in str(error.value) for name in samples)


def test_a_part_without_clips(tmp_path):
    write_dojo(tmp_path, clips=2, frames=4, size=(16, 32))
    with pytest.raises(ValueError, match="no clips in this part: give other fractions"):
        VideoClips("drivingdojo", str(tmp_path), frames=3, size=(16, 32), fractions=(1.0, 0.0)).setup()


def test_a_failed_reconstruction_is_counted(tmp_path):
    pytest.importorskip("cv2")
    street = StreetSimulator(96, 160, supersample=1).clip(0, 6)
    flat = torch.full_like(street.frames, 128)
    commands = torch.tensor([[0.5, 0.0]]).repeat(2, 5, 1)
    for protocol, key in (("strict", "clips_failed"), ("paper", "clips_skipped")):
        metric = ActionInstructionFollowing(OpenCVEstimator(), protocol)
        metric.update(torch.stack([street.frames, flat]), commands, camera=street.camera, clip_ids=["street", "flat"])
        values, rows = metric.compute(), metric.per_clip()
        assert values[key] == 1
        assert values["clips"] == 2
        assert (rows[1]["clip"], bool(rows[1]["reason"])) == ("flat", True)
    assert values["coverage_clips"] == 0.5
