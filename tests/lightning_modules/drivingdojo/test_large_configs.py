"""The configurations that need GPUs and weights start, take two steps and test, with the sizes below and nothing else.

Overrides: generated clips in the native layout, small frames, CPU, float32, and random nets instead of weights. What
remains is the configuration's own: source, losses, dropout, guidance, schedule, gradient clipping, LoRA, estimator.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.datamodules.video.layouts import write_dojo
from tests.lightning_modules.drivingdojo.nets import unet, vae
from tests.support.paths import shared_data
from tests.support.runs import newest, septet

SIZE = (16, 32)


def _fit(name, root, frames, model, data=()):
    """Two steps on CPU of a shipped configuration."""
    words = ["fit", "-c", f"configs/drivingdojo/{name}.yaml", "--name", name, "--trainer.max_steps", 2]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", 1, "--trainer.precision", "32-true"]
    words += ["--trainer.log_every_n_steps", 1, "--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 1]
    for key, value in {"root": root, "frames": frames, "size": list(SIZE), "num_workers": 0, "batch_size": 1}.items():
        words += [f"--data.init_args.{key}", json.dumps(value) if isinstance(value, list) else value]
    for key, value in {"frame_size": list(SIZE), "frames": frames, "steps": 2, "aif": "none", **model}.items():
        words += [f"--model.init_args.{key}", value if isinstance(value, str | int) else json.dumps(value)]
    return septet(*words, *data)


def _losses(run):
    rows = (run / "metrics.csv").read_text().splitlines()
    at = rows[0].split(",").index("train/loss")
    return [float(v) for row in rows[1:] if (v := row.split(",")[at])]


@pytest.mark.parametrize("name", ["dojo_576_30f", "dojo_1024_14f", "svd_lora"])
def test_a_configuration_of_svd_starts(name, runs, tmp_path):
    pytest.importorskip("diffusers")
    write_dojo(tmp_path / "dojo", clips=4, frames=6, size=SIZE)
    random = {"weights": "null", "net": {"unet": unet(32), "vae": vae(32)}}
    assert _fit(name, tmp_path / "dojo", 4, random, ["--data.init_args.fractions", "[0.5, 0.5]"]) == 0
    run = newest(runs, "drivingdojo", name)
    losses = _losses(run)
    assert len(losses) == 2
    assert all(0 < loss < float("inf") for loss in losses)
    stored = torch.load(next((run / "checkpoints").glob("*.ckpt")), weights_only=True)
    moved = [k for k, v in stored["ema"]["shadow"].items() if not torch.equal(v, stored["state_dict"][k])]
    assert moved
    if name == "svd_lora":
        assert all(".a." in k or ".b." in k or k.startswith("net.actions") for k in stored["ema"]["shadow"])
    else:
        assert any(k.startswith("net.unet.conv_in") for k in stored["ema"]["shadow"])


def test_comma_small_starts(runs, tmp_path):
    pytest.importorskip("av")
    segment = tmp_path / "comma" / "example"
    pose = shared_data("video/comma2k19_example1/global_pose")
    shutil.copytree(pose, segment / "global_pose", copy_function=shutil.copyfile)
    (segment / "global_pose").chmod(0o755)
    assert septet("data", "generate", "video", segment, "--along", "--frames", 30, "--size", 64, 96) == 0
    net = {"net": {"dim": 32, "depth": 1, "heads": 2}}
    words = ["--data.init_args.cache_dir", tmp_path / "cache"]
    with pytest.warns(UserWarning, match="of one vehicle"):
        assert _fit("comma_small", tmp_path / "comma", 4, net, words) == 0
    assert len(_losses(newest(runs, "drivingdojo", "comma_small"))) == 2
    with pytest.warns(UserWarning, match="of one vehicle"):
        assert septet("test", "--run", "drivingdojo/comma_small") == 0
