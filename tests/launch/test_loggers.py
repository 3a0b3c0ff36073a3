from __future__ import annotations

import json

import pytest
from tests.support.runs import newest, septet, septet_process

from septet.launch.wandb_file import history, records

TOY = "tests/support/toy.yaml"


def test_wandb_offline_is_one_run_across_a_restart(runs):
    pytest.importorskip("wandb")
    env = {"SEPTET_RUNS": str(runs), "SEPTET_RUN_ID": "w1", "WANDB_MODE": "offline"}
    words = ["fit", "-c", TOY, "-c", "configs/logger/wandb_offline.yaml", "--name", "wb"]
    first = septet_process(*words, "--trainer.callbacks+=tests.support.toy.SignalAt", env=env)
    assert first.returncode == 75, first.stderr
    run = runs / "user/wb/w1"
    identity = (run / "wandb_id").read_text()
    again = septet_process("fit", "--run", str(run), env={**env, "SEPTET_TEST_NO_SIGNAL": "1"})
    assert again.returncode == 0, again.stderr
    assert (run / "wandb_id").read_text() == identity
    files = sorted(run.rglob("run-*.wandb"))
    assert len(files) == 2
    assert {f.stem for f in files} == {f"run-{identity}"}
    steps: list[int] = []
    for file in sorted(files, key=lambda f: f.stat().st_mtime):
        found = list(records(file))
        meta = next(r.run for r in found if r.HasField("run"))
        assert meta.project == "septet"
        assert meta.run_group == "user/wb"
        assert meta.job_type == "fit"
        assert "user" in list(meta.tags)
        steps += [int(float(h["trainer/global_step"])) for h in history(file) if "train/loss" in h]
    assert steps == list(range(24))


def test_log_model_offline_is_refused(runs, capsys):
    pytest.importorskip("wandb")
    words = [
        "fit",
        "-c",
        TOY,
        "-c",
        "configs/logger/wandb_offline.yaml",
        "--trainer.logger.init_args.log_model",
        "true",
    ]
    assert septet(*words) == 2
    assert "log_model" in capsys.readouterr().err


def test_tensorboard_stays_in_the_run(runs):
    pytest.importorskip("tensorboard")
    assert septet("fit", "-c", TOY, "-c", "configs/logger/tensorboard.yaml", "--name", "tb") == 0
    run = newest(runs, "user", "tb")
    assert list(run.rglob("events.out.tfevents.*"))
    assert json.loads((run / "record.json").read_text())["status"] == "finished"


def test_csv_is_written_even_without_loggers(runs):
    assert septet("fit", "-c", TOY, "-c", "configs/logger/none.yaml", "--name", "csv") == 0
    assert "val/loss" in (newest(runs, "user", "csv") / "metrics.csv").read_text().splitlines()[0]
