from __future__ import annotations

import json

import pytest
import yaml
from tests.support.paths import ROOT
from tests.support.runs import newest, septet, septet_process

from septet.launch.report.compare import flatten
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


def test_logger_files_add_up_and_the_same_kind_twice_is_one(runs):
    pytest.importorskip("wandb")
    files = [w for n in ("wandb_offline", "tensorboard", "wandb_offline") for w in ("-c", f"configs/logger/{n}.yaml")]
    done = septet_process("fit", "-c", TOY, *files, "--name", "both", env={"SEPTET_RUNS": str(runs)})
    assert done.returncode == 0, done.stderr
    run = newest(runs, "user", "both")
    assert len(list(run.rglob("run-*.wandb"))) == 1
    assert len(list(run.rglob("events.out.tfevents.*"))) == 1
    again = septet_process("logs", "sync", str(run), "--dry-run", env={"SEPTET_RUNS": str(runs)})
    assert again.returncode == 0, again.stderr
    assert (run / "wandb_id").read_text() in again.stdout


def test_csv_is_written_even_without_loggers(runs):
    assert septet("fit", "-c", TOY, "-c", "configs/logger/none.yaml", "--name", "csv") == 0
    assert "val/loss" in (newest(runs, "user", "csv") / "metrics.csv").read_text().splitlines()[0]


@pytest.fixture
def agent(monkeypatch):
    """The command that an agent of the shipped sweep starts, shortened to the toy, in the agent's environment."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((ROOT / "src/septet/configs/sweeps/cne_n_wandb.yaml").read_text())
    chosen = {"model.init_args.lr": 0.005, "seed_everything": 1}
    assert set(chosen) <= set(sweep["parameters"])
    arguments = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
    words = [w for part in sweep["command"] for w in (arguments["args"] if part == "${args}" else [part])]
    assert words[:4] == ["septet", "fit", "-c", "configs/cne_n/synthetic.yaml"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw1")
    monkeypatch.setenv("WANDB_RUN_ID", "agentrun")
    return words[1:]


def test_a_sweep_agents_run_keeps_the_agents_id_and_takes_its_values(runs, agent, monkeypatch):
    words = [TOY if w == "configs/cne_n/synthetic.yaml" else w for w in agent]
    done = septet_process(*words, env={"SEPTET_RUNS": str(runs), "WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    run = newest(runs, "user", "toy")
    assert (run / "wandb_id").read_text() == "agentrun"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["init_args"]["lr"], config["seed_everything"]) == (0.005, 1)
    (file,) = run.rglob("run-agentrun.wandb")
    assert next(r.run.sweep_id for r in records(file) if r.HasField("run")) == "sw1"


def test_the_shipped_sweep_names_keys_that_exist(agent, capsys):
    assert septet(*agent, "--print_config") == 0
    sweep = yaml.safe_load((ROOT / "src/septet/configs/sweeps/cne_n_wandb.yaml").read_text())
    config = flatten(yaml.safe_load(capsys.readouterr().out))
    assert set(sweep["parameters"]) <= set(config)


def test_weights_and_report_become_artifacts_of_the_same_run(runs):
    pytest.importorskip("wandb")
    env = {"SEPTET_RUNS": str(runs), "WANDB_MODE": "offline"}
    assert septet("fit", "-c", TOY, "--name", "plain") == 0
    assert septet("logs", "artifacts", "user/plain") == 2
    done = septet_process("fit", "-c", TOY, "-c", "configs/logger/wandb_offline.yaml", "--name", "art", env=env)
    assert done.returncode == 0, done.stderr
    assert septet("report", "user/art") == 0
    done = septet_process("logs", "artifacts", "user/art", env=env)
    assert done.returncode == 0, done.stderr
    run = newest(runs, "user", "art")
    identity = (run / "wandb_id").read_text()
    files = list(run.rglob(f"run-{identity}.wandb"))
    assert len(files) == 2
    logged = [
        r.request.log_artifact.artifact if r.request.HasField("log_artifact") else r.artifact
        for f in files for r in records(f) if r.HasField("artifact") or r.request.HasField("log_artifact")
    ]  # fmt: skip
    found = {(a.type, a.name, tuple(sorted(a.aliases))) for a in logged}
    assert found == {
        ("model", f"model-{identity}", ("best", "latest")), ("model", f"model-{identity}", ("latest",)),
        ("report", f"report-{identity}", ("latest",)),
    }  # fmt: skip
