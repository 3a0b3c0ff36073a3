"""From the command line: estimators with workers and a cache, extractors by file, the bonnet, drift and pictures."""

from __future__ import annotations

import json
import warnings
from importlib.resources import files

import pytest
import torch
import yaml
from tests.lightning_modules.drivingdojo import nets
from tests.support.runs import newest, septet

SHIPPED = files("septet.lightning_modules.drivingdojo") / "weights/inverse_dynamics.pt"


def _config(tmp_path, root, size, frames, **model):
    """A configuration of a tiny random model on a folder of clips."""
    settings = {"frame_size": list(size), "frames": frames, "steps": 1, "train_frames": 2, "net": nets.TINY} | model
    data = {"source": "folder", "root": str(root), "frames": frames, "size": list(size), "batch_size": 2}
    config = {
        "seed_everything": 0,
        "trainer": {"max_steps": 1, "max_epochs": -1, "accelerator": "cpu", "num_sanity_val_steps": 0},
        "model": {"class_path": "septet.lightning_modules.drivingdojo.WorldModel", "init_args": settings},
        "data": {
            "class_path": "septet.datamodules.video.VideoClips",
            "init_args": data | {"fractions": [0.5, 0.5]},
        },
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _toy(path, dims):
    """A scripted extractor: mean colours."""

    class Toy(torch.nn.Module):
        def __init__(self, dims: list[int]) -> None:
            super().__init__()
            self.dims: list[int] = dims

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(self.dims)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch now prefers export; users' extractors are TorchScript
        torch.jit.script(Toy(dims)).save(str(path))
    return path


@pytest.mark.slow
def test_sfm_with_workers_and_cache_from_yaml(runs, tmp_path, monkeypatch):
    pytest.importorskip("pycolmap")
    pytest.importorskip("matplotlib")
    size, frames = (96, 160), 6
    assert septet("data", "generate", "video", tmp_path / "own", "--clips", 4, "--frames", frames, "--size", *size) == 0
    aif = {"aif": "pycolmap", "aif_options": {"matcher": "sequential:4", "max_features": 400}, "bonnet": 90}
    cache = tmp_path / "paths"
    config = _config(tmp_path, tmp_path / "own", size, frames, **aif, aif_workers=2, aif_cache_dir=str(cache))
    assert septet("fit", "-c", config, "--name", "own") == 0
    assert septet("test", "--run", "drivingdojo/own") == 0
    files = {p.name for p in cache.glob("trajectory-*.pt")}
    assert 6 <= len(files) <= 8  # two clips: real, still, dreamed by two commands (equal dreams run once)
    record = json.loads((newest(runs, "drivingdojo", "own") / "record-test.json").read_text())
    first = record["metrics"]
    assert first["test/aif_clips"] == 2
    assert first["test/floor_ex"] < first["test/static_ex"]
    assert record["protocol"]["bonnet"] == 90
    assert record["protocol"]["aif_options"] == aif["aif_options"]

    def never(*_):
        raise AssertionError("remembered clips must not run again")

    monkeypatch.setattr("septet.lightning_modules.drivingdojo.pool._job", never)
    assert septet("test", "--run", "drivingdojo/own", "--model.init_args.aif_workers", "0") == 0
    again = json.loads((newest(runs, "drivingdojo", "own") / "record-test.json").read_text())["metrics"]
    assert again == first
    assert {p.name for p in cache.glob("trajectory-*.pt")} == files


def test_extractors_drift_and_refusals_from_the_command_line(runs, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    assert septet("data", "generate", "video", tmp_path / "own", "--clips", 4, "--frames", 8) == 0
    net = {"aif": "inverse_dynamics", "aif_options": {"checkpoint": str(SHIPPED)}}
    config = _config(tmp_path, tmp_path / "own", (32, 64), 8, **net)
    assert septet("fit", "-c", config, "--name", "own") == 0
    given = {kind: str(_toy(tmp_path / f"toy_{kind}.pt", dims)) for kind, dims in (("fid", [2, 3]), ("frd", [2, 3, 4]))}
    capfd.readouterr()
    words = ["test", "--run", "drivingdojo/own", "--model.init_args.extractors"]
    with pytest.warns(UserWarning, match="biased"):
        assert septet(*words, json.dumps(given)) == 0
    run = newest(runs, "drivingdojo", "own")
    record = json.loads((run / "record-test.json").read_text())
    hashes = {e["name"]: e["sha256"] for e in record["protocol"]["extractors"]}
    assert set(hashes) == {"random_conv3d_seed0", "inception_fid", "toy_frd"}
    values = record["metrics"]
    assert values[f"test/fid/inception_fid:{hashes['inception_fid'][:12]}"] > 0
    assert values[f"test/frd/toy_frd:{hashes['toy_frd'][:12]}"] > 0
    for key in ("ex", "ey", "floor_ex", "floor_ey", "psnr", "colour", "frd_random"):
        assert {f"test/drift_{key}_{n}" for n in (1, 2)} <= values.keys()
    assert values["test/drift_ex_1"] * 5 + values["test/drift_ex_2"] * 2 == pytest.approx(
        7 * values["test/aif_ex_step"]
    )
    assert {"real_generated_paths.png", "drift_by_block.png"} <= {p.name for p in (run / "media").iterdir()}

    capfd.readouterr()
    assert septet(*words, json.dumps({"fvd": str(tmp_path / "i3d.pt")})) != 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "i3d.pt" in line]
    assert len(lines) == 1
    assert "no extractor weights" in lines[0]
    (tmp_path / "text.pt").write_text("no network")
    assert septet(*words, json.dumps({"fvd": str(tmp_path / "text.pt")})) != 0
    assert "not a TorchScript file" in capfd.readouterr().err
