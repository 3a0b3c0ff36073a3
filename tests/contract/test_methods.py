"""Every row of METHODS does what the platform promises, on its own smoke configuration."""

from __future__ import annotations

import importlib
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from tests.support.runs import curve, newest, septet

from septet.launch.methods import METHODS
from septet.launch.methods_command import shipped_configs

SMOKE = [slug for slug in METHODS if (Path(str(files("septet"))) / "configs" / slug / "smoke.yaml").is_file()]


def _trainable(slug: str) -> bool:
    config = yaml.safe_load((Path(str(files("septet"))) / f"configs/{slug}/smoke.yaml").read_text())
    return str(config.get("ckpt_path")) != "none"


@pytest.mark.parametrize("slug", SMOKE)
def test_a_method_is_complete(slug):
    method = METHODS[slug]
    for path in (method.module, method.datamodule):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    assert f"configs/{slug}/smoke.yaml" in shipped_configs(slug)
    assert set(method.configs) <= {c.removeprefix("configs/") for c in shipped_configs(slug)}
    readme = files("septet") / "lightning_modules" / slug / "README.md"
    assert readme.is_file(), f"{slug} has no README"
    assert "paper" in readme.read_text().lower()


@pytest.mark.parametrize("slug", SMOKE)
def test_smoke_fits_tests_predicts_and_reports(slug, runs):
    words = ["-c", f"configs/{slug}/smoke.yaml", "--name", "smoke"]
    if _trainable(slug):
        assert septet("fit", *words) == 0
        assert septet("test", "--run", f"{slug}/smoke") == 0
    else:
        assert septet("test", *words) == 0
    run = newest(runs, slug, "smoke")
    record = json.loads((run / ("record-test.json" if _trainable(slug) else "record.json")).read_text())
    assert record["status"] == "finished"
    assert record["method"] == slug
    assert record["dataset"]
    assert any(v is not None for k, v in record["metrics"].items() if k.startswith("test/")), record["metrics"]
    assert septet("predict", "--run", f"{slug}/smoke") == 0
    assert septet("report", f"{slug}/smoke") == 0
    assert list((run / "report/media").glob("*.png")), "a method's report shows pictures"
    for checkpoint in (run / "checkpoints").glob("*.ckpt"):
        assert torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]


@pytest.mark.parametrize("slug", [s for s in SMOKE if _trainable(s)])
def test_a_stopped_run_equals_an_unbroken_one(slug, runs, monkeypatch):
    """Stop by signal after two steps, go on, and compare every logged value with the run that was not stopped."""
    words = [
        "fit",
        "-c",
        f"configs/{slug}/smoke.yaml",
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.limit_val_batches",
        "1",
    ]
    words += ["--trainer.limit_train_batches", "4", "--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0"]
    stop = ["--trainer.callbacks+=tests.support.toy.SignalAt", "--trainer.callbacks.at=2"]
    assert septet(*words, *stop, "--name", "stopped") == 75
    monkeypatch.setenv("SEPTET_TEST_NO_SIGNAL", "1")
    assert septet("fit", "--run", f"{slug}/stopped") == 0
    assert septet(*words, "--name", "whole") == 0
    whole = curve(newest(runs, slug, "whole"))
    assert whole
    assert curve(newest(runs, slug, "stopped")) == whole
