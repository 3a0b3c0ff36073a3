"""``septet data ... video``."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tests.datamodules.video.layouts import write_dojo
from tests.support.paths import shared_data

from septet.datamodules.video.commands import main
from septet.datamodules.video.readers import Comma2k19Reader, FolderReader


def test_generated_clips_can_be_read(tmp_path):
    assert main("generate", [str(tmp_path), "--clips", "2", "--frames", "4", "--size", "16", "32"]) == 0
    reader = FolderReader(tmp_path)
    assert reader.clips == ["sim00000", "sim00001"]
    assert reader.read("sim00001").frames.shape == (4, 3, 16, 32)
    assert main("verify", ["folder", str(tmp_path)]) == 0


def test_verify_names_broken_clips(tmp_path, capsys):
    write_dojo(tmp_path, clips=2, frames=3, size=(16, 32))
    victim = next((tmp_path / "action_info").rglob("0010_*"))
    victim.unlink()
    assert main("verify", ["drivingdojo", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "BROKEN" in out
    assert "1 of 2 clips are whole" in out


def test_prepare_fills_a_cache(tmp_path):
    write_dojo(tmp_path / "data", clips=1, frames=3, size=(16, 32))
    arguments = ["drivingdojo", str(tmp_path / "data"), "--cache_dir", str(tmp_path / "cache"), "--size", "8", "16"]
    assert main("prepare", arguments) == 0
    (file,) = (tmp_path / "cache").glob("frames-*.npy")
    assert np.load(file).shape == (3, 3, 8, 16)


def test_a_street_along_a_real_track(tmp_path):
    pytest.importorskip("av")
    pose = shared_data("video/comma2k19_example1/global_pose")
    shutil.copytree(pose, tmp_path / "segment/global_pose", copy_function=shutil.copyfile)
    (tmp_path / "segment/global_pose").chmod(0o755)
    assert main("generate", [str(tmp_path / "segment"), "--along", "--frames", "9", "--size", "64", "96"]) == 0
    reader = Comma2k19Reader(tmp_path / "segment")
    sample = reader.read("segment", 0, 3, 4, size=(32, 48))
    assert sample.frames.shape == (3, 3, 32, 48)
    assert not np.array_equal(sample.frames[0], sample.frames[1])
    assert sample.actions[:, 0].min() > 1
    with pytest.raises(ValueError, match="not overwritten"):
        main("generate", [str(tmp_path / "segment"), "--along"])


@pytest.mark.parametrize("size", [("32", "64"), ("65", "96")])
def test_a_street_of_an_impossible_size(tmp_path, size):
    with pytest.raises(ValueError, match="both must be even and at least 64"):
        main("generate", [str(tmp_path), "--along", "--size", *size])


def test_fetch_says_where(capsys):
    assert main("fetch", []) == 0
    assert "DrivingDojo" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown action"):
        main("burn", [])
