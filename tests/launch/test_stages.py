from __future__ import annotations

import json

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from tests.support.runs import curve, newest, septet, septet_process

from septet.launch.runs import Ledger

TOY = "tests/support/toy.yaml"


@pytest.fixture
def trained(runs):
    assert septet("fit", "-c", TOY) == 0
    return newest(runs, "user", "toy")


def test_fit_leaves_a_complete_run(trained, runs):
    record = json.loads((trained / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["dataset"] == "points"
    assert record["seed"] == 0
    assert record["metrics"]["val/loss"] > 0
    assert {"wall_s", "cpu_s", "peak_rss_bytes", "device", "devices"} <= set(record["cost"])
    assert (trained / "config.yaml").is_file()
    assert (trained / "env/environment.json").is_file()
    for name in ("best", "last"):
        assert torch.load(trained / f"checkpoints/{name}.ckpt", weights_only=True)["global_step"] > 0
    assert [r["stage"] for r in Ledger(runs / "ledger.sqlite").rows()] == ["fit"]


def test_test_and_predict_inside_the_run(trained, runs, capsys):
    assert septet("test", "--run", "user/toy") == 0
    assert septet("predict", "--run", trained.name, "--ckpt_path", "last") == 0
    text = capsys.readouterr().out
    assert "weights:" in text
    assert "best.ckpt (epoch" in text
    assert "last.ckpt (epoch" in text
    record = json.loads((trained / "record-test.json").read_text())
    assert "best.ckpt" in record["checkpoint"]
    assert (trained / "media/square.png").is_file()
    assert len((trained / "predictions.csv").read_text().splitlines()) == 65
    assert (trained / "config-test.yaml").is_file()
    assert (trained / "metrics-test.csv").is_file()
    assert {r["stage"] for r in Ledger(runs / "ledger.sqlite").rows()} == {"fit", "test", "predict"}
    assert septet("test", "--run", "user/toy") == 0
    assert sum(r["stage"] == "test" for r in Ledger(runs / "ledger.sqlite").rows()) == 1


def test_repeats_share_a_configuration_and_other_settings_do_not(runs):
    keys = []
    for words in (
        [],
        ["--seed_everything", "3"],
        ["--trainer.log_every_n_steps", "1"],
        ["--model.init_args.lr", "0.9"],
    ):
        assert septet("fit", "-c", TOY, "--name", f"n{len(keys)}", *words) == 0
        record = json.loads((newest(runs, "user", f"n{len(keys)}") / "record.json").read_text())
        keys.append(record["config_sha256"])
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_an_evaluation_cannot_be_trained_on(runs, capsys):
    assert septet("test", "-c", TOY, "--ckpt_path", "none", "--name", "fresh") == 0
    run = newest(runs, "user", "fresh")
    before = (run / "config.yaml").read_text()
    assert septet("fit", "--run", "user/fresh") == 2
    assert f"is an evaluation, there is no training to go on with: septet test --run {run}" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before
    assert septet("test", "--run", "user/fresh") == 0


def test_fresh_weights_only_on_demand(runs):
    assert septet("test", "-c", TOY, "--ckpt_path", "none", "--name", "fresh") == 0
    record = json.loads((newest(runs, "user", "fresh") / "record.json").read_text())
    assert record["checkpoint"] == "none (fresh weights)"
    assert septet("predict", "--run", "user/fresh") == 0, "a run without weights is evaluated again without them"


def test_configuration_wins_over_the_checkpoint(trained, capsys, runs):
    best = str(trained / "checkpoints/last.ckpt")
    words = [
        "fit",
        "-c",
        TOY,
        "--ckpt_path",
        best,
        "--model.init_args.lr",
        "0.9",
        "--trainer.max_epochs",
        "4",
        "--name",
        "more",
    ]
    assert septet(*words) == 0
    assert "lr: 0.1 in the checkpoint, 0.9 in the configuration (used)" in capsys.readouterr().out
    again = torch.load(newest(runs, "user", "more") / "checkpoints/last.ckpt", weights_only=True)
    assert again["optimizer_states"][0]["param_groups"][0]["lr"] == 0.9
    assert again["hyper_parameters"]["lr"] == 0.9


def test_a_checkpoint_of_another_class_is_refused(trained, capsys):
    words = [
        "test",
        "-c",
        TOY,
        "--model",
        "tests.support.toy.Other",
        "--ckpt_path",
        str(trained / "checkpoints/best.ckpt"),
    ]
    assert septet(*words) == 2
    text = capsys.readouterr().err
    assert "toy.Toy" in text
    assert "toy.Other" in text


def test_a_foreign_file_is_no_checkpoint(tmp_path, capsys, runs):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pt")
    assert septet("test", "-c", TOY, "--ckpt_path", str(tmp_path / "foreign.pt")) == 2
    assert "found ['weights'] instead of 'state_dict'" in capsys.readouterr().err


def test_the_overridden_lightning_method_still_exists():
    assert callable(LightningCLI._parse_ckpt_path)


def test_deterministic_runs_are_bit_equal(runs):
    for name in ("one", "two"):
        assert septet("fit", "-c", TOY, "--trainer.deterministic", "true", "--name", name) == 0
    assert curve(newest(runs, "user", "one")) == curve(newest(runs, "user", "two"))


@pytest.mark.parametrize(
    ("number", "code", "at", "workers"), [(15, 75, 12, 0), (10, 75, 8, 0), (15, 75, 16, 2), (9, -9, 12, 0)]
)
def test_a_stopped_run_resumes_to_the_same_curve(runs, number, code, at, workers):
    env = {"SEPTET_RUN_ID": "r1", "SEPTET_RUNS": str(runs)}
    words = [
        "fit",
        "-c",
        TOY,
        "--data.init_args.workers",
        str(workers),
        "--trainer.callbacks+=tests.support.toy.SignalAt",
    ]
    words += [f"--trainer.callbacks.at={at}", f"--trainer.callbacks.number={number}", "--name", "stopped"]
    done = septet_process(*words, env=env)
    assert done.returncode == code, done.stderr
    run = runs / "user/stopped/r1"
    if code == 75:
        assert json.loads((run / "record.json").read_text())["status"] == "preempted"
    rows = Ledger(runs / "ledger.sqlite").rows()
    assert rows == [], "a run that did not finish leaves no row"
    done = septet_process("fit", "--run", "user/stopped", env={"SEPTET_RUNS": str(runs), "SEPTET_TEST_NO_SIGNAL": "1"})
    assert done.returncode == 0, done.stderr
    assert ("preempt.ckpt" if code == 75 else "last.ckpt") in done.stdout
    assert septet("fit", "-c", TOY, "--name", "whole") == 0
    assert curve(run) == curve(newest(runs, "user", "whole"))
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_checkpoints_can_be_switched_off(runs):
    assert septet("fit", "-c", TOY, "--trainer.enable_checkpointing", "false", "--name", "none") == 0
    assert not list((newest(runs, "user", "none") / "checkpoints").iterdir())


def test_two_writers_on_one_run(trained, capsys):
    import fcntl
    import os

    handle = os.open(trained / ".lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert septet("fit", "--run", str(trained)) == 2
    finally:
        os.close(handle)
    assert "another process is training" in capsys.readouterr().err


def test_two_gloo_processes_share_one_run(runs):
    done = septet_process(
        "fit", "-c", TOY, "-c", "configs/trainer/ddp_cpu.yaml", "--name", "ddp", env={"SEPTET_RUNS": str(runs)}
    )
    assert done.returncode == 0, done.stderr
    run = newest(runs, "user", "ddp")
    assert len(list(run.parent.iterdir())) == 1
    record = json.loads((run / "record.json").read_text())
    assert record["cost"]["devices"] == 2
    assert record["step"] == 12


def test_two_processes_test_and_predict_with_the_weights_of_a_run(runs):
    env = {"SEPTET_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    ddp = ["-c", "configs/trainer/ddp_cpu.yaml"]
    assert septet("fit", "-c", TOY, "--trainer.max_epochs=1") == 0
    run = newest(runs, "user", "toy")
    one = septet_process("test", "--run", str(run), env=env)
    assert one.returncode == 0, one.stderr
    alone = json.loads((run / "record-test.json").read_text())["metrics"]
    both = septet_process("test", "--run", str(run), *ddp, env=env)
    assert both.returncode == 0, both.stderr
    record = json.loads((run / "record-test.json").read_text())
    assert record["cost"]["devices"] == 2
    assert record["metrics"] == pytest.approx(alone, rel=1e-5)
    fresh = septet_process("test", "-c", TOY, *ddp, "--ckpt_path", "none", "--name", "fresh", env=env)
    assert fresh.returncode == 0, fresh.stderr
    predicted = septet_process("predict", "--run", str(run), *ddp, env=env)
    assert predicted.returncode == 0, predicted.stderr
