"""``septet data ... video``."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.datamodules.video.layouts import write_dojo, write_own
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


def _cut(root):
    file = root / "b" / "0002.png"
    file.write_bytes(file.read_bytes()[:-40])


def _resize(root):
    Image.new("RGB", (40, 48)).save(root / "b" / "0002.png")


def _lose(root):
    (root / "b" / "0002.png").unlink()
    (root / "b.csv").write_text("forward,right\n1,0\n1,0\n")


def _twice(root):
    shutil.copyfile(root / "b" / "0002.png", root / "b" / "0002.jpeg")
    (root / "b.csv").write_text("forward,right\n" + "1,0\n" * 4)


def _poses(w):
    def change(root):
        (root / "b.csv").write_text("x,y,z,qw,qx,qy,qz\n" + f"0,0,1,{w},0,0,0\n" * 4)

    return change


def _settings(**values):
    def change(root):
        (root / "b.json").write_text(json.dumps(values))

    return change


CAMERA = {"model": "PINHOLE", "params": [32, 32, 32, 16], "width": 64, "height": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, "0002.png is a truncated PNG"),
        (_resize, "0002.png has 40x48 pixels, 0000.png has 64x32"),
        (_lose, "0003.png: a frame is missing between 0001.png and 0003.png"),
        (_twice, "have the same number"),
        (_poses(0), "b.csv, row 1: a quaternion of norm 0"),
        (_poses(2), "b.csv, row 1: a quaternion of norm 2"),
        (_settings(fps=0), "b.json: fps is 0"),
        (_settings(fps="ten"), "b.json: fps is 'ten'"),
        (_settings(**CAMERA | {"width": 1164, "height": 874}), "b.json: width 1164, height 874 beside frames of 64x32"),
        (_settings(**CAMERA | {"params": [1, 2, 3]}), "b.json: model, params, width and height make no camera"),
        (_settings(**CAMERA | {"params": "910"}), "b.json: params is '910'"),
        (lambda root: (root / "b.json").write_text("[1, 2]"), "b.json holds no JSON object"),
    ],
)
def test_verify_names_every_broken_file(tmp_path, capsys, change, message):
    for number, name in enumerate("abc"):
        write_own(tmp_path, name, seed=number)
    change(tmp_path)
    assert main("verify", ["folder", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["a", "b", "c"]
    assert lines[1].startswith("b: BROKEN")
    assert message in lines[1]
    assert lines[3] == "2 of 3 clips are whole"


def test_verify_names_what_is_left_out(tmp_path, capsys):
    for name in "abc":
        write_own(tmp_path, name)
    (tmp_path / "b.csv").unlink()
    shutil.rmtree(tmp_path / "c")
    assert main("verify", ["folder", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "LEFT OUT: b: no b.csv beside it" in out
    assert "LEFT OUT: c.csv: no folder c or c.mp4 beside it" in out
    assert "1 of 3 clips are whole" in out


@pytest.mark.parametrize(("words", "message"), [(["--clips", "0"], "--clips 0"), (["--frames", "1"], "--frames 1")])
def test_generate_refuses_clips_without_a_motion(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        main("generate", [str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


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
    assert main("verify", ["comma2k19", str(tmp_path / "segment")]) == 0
    assert reader.length("segment") == 9
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
