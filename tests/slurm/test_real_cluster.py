"""Against a real slurmctld: submit, arrays, fake GPUs, requeue by signal and by preemption on one and two nodes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.slurm.cluster import Cluster
from tests.support.paths import ROOT
from tests.support.runs import curve

from septet.launch.wandb_file import history

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
TOY = ["fit", "-c", "tests/support/toy.yaml", "--model=tests.slurm.slow_toy.SlowToy"]


class Launcher:
    """``septet launch`` with the test cluster's configuration and a private folder of runs."""

    def __init__(self, cluster, root: Path) -> None:
        self.cluster, self.root = cluster, root
        self.env = {**os.environ, **cluster.env, "SEPTET_RUNS": str(root), "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, "-m", "septet", "launch", *words, *(["--", *command] if command else [])]
        return subprocess.run(full, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=120, check=False)

    def submit(self, *words: str, command: list[str]) -> tuple[str, Path]:
        done = self("submit", *words, command=command)
        assert done.returncode == 0, done.stderr
        job = re.search(r"job (\d+)", done.stdout)
        run = re.search(r"run: (\S+)", done.stdout)
        assert job is not None
        assert run is not None
        return job.group(1), Path(run.group(1))

    def log(self, run: Path) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()}" for p in sorted((run / "slurm").glob("*.log")))


@pytest.fixture
def launch(cluster, runs):
    return Launcher(cluster, runs)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Curve and final weights of the run that nobody stopped."""
    root = tmp_path_factory.mktemp("unbroken")
    env = {**os.environ, "SEPTET_RUNS": str(root), "OMP_NUM_THREADS": "1", "SEPTET_RUN_ID": "u1"}
    words = [sys.executable, "-m", "septet", *TOY, "--model.init_args.pause=0", "--name", "u", "--trainer.max_epochs=5"]
    subprocess.run(words, cwd=ROOT, env=env, check=True, capture_output=True, timeout=120)
    return curve(root / "user/u/u1"), _weights(root / "user/u/u1")


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])


def _same_weights(run: Path, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, expected[k]) for k, v in _weights(run).items())


def test_an_impossible_request_is_the_schedulers_sentence(launch):
    done = launch("submit", "--set", "nodes=5", "--set", "partition=debug", command=TOY)
    assert done.returncode == 2
    assert "the scheduler refuses" in done.stderr
    assert not list(launch.root.rglob("job.sh"))
    done = launch("test", "--set", "partition=nowhere", command=TOY)
    assert done.returncode == 2
    assert "partition" in done.stderr.lower()


def test_test_only_submits_nothing(launch, cluster):
    done = launch("test", "--set", "mem=500M", command=TOY)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stdout
    assert cluster.run("squeue", "-h").stdout == ""


def test_submit_status_and_gpus(launch, cluster):
    job, run = launch.submit(
        "--set", "gpus=2", "--set", "tasks=1", "--set", "gpu_flag=--gres", "--set", "mem=900M",
        command=[*TOY, "--trainer.accelerator=auto", "--trainer.devices=1", "--model.init_args.pause=0"],
    )  # fmt: skip
    assert cluster.wait(job) == "COMPLETED", launch.log(run)
    environment = json.loads((run / "env/environment.json").read_text())
    assert environment["slurm"]["SLURM_JOB_ID"] == job
    assert "gpu:2" in (run / "slurm/job.sh").read_text()
    status = launch("status", str(run), "--json")
    assert json.loads(status.stdout)["jobs"][0]["state"] in ("COMPLETED", "FINISHED")
    assert json.loads((run / "record.json").read_text())["status"] == "finished"


def test_two_sigterm_requeues_continue_at_the_exact_step(launch, cluster, unbroken):
    words = [
        *TOY,
        "--name",
        "pre",
        "--trainer.max_epochs=5",
        "--model.init_args.pause=0.6",
        "-c",
        "configs/logger/wandb_offline.yaml",
    ]
    job, run = launch.submit("--set", "mem=900M", command=words)
    _wait_for(run / "metrics.csv", run / "checkpoints/last.ckpt", launch, run)
    identity = (run / "wandb_id").read_text()
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    _wait_for_restart(run, 1, cluster, job, launch)
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    assert cluster.wait(job) == "COMPLETED", launch.log(run)
    log = launch.log(run)
    assert "stopped by a signal at step" in log
    assert "preempt.ckpt (epoch" in log
    assert curve(run) == unbroken[0], log
    assert _same_weights(run, unbroken[1])
    assert len(list((run / "slurm").glob("*_r*.log"))) == 3
    assert (run / "wandb_id").read_text() == identity
    assert _wandb_steps(run) == list(range(40))


def test_the_time_limit_signal_requeues_by_itself(launch, cluster, unbroken):
    words = [*TOY, "--name", "limit", "--trainer.max_epochs=5", "--model.init_args.pause=0.8"]
    job, run = launch.submit("--set", "mem=900M", "--set", "time=00:01:00", "--set", "lead=30", command=words)
    assert cluster.wait(job, timeout=240) == "COMPLETED", launch.log(run)
    assert curve(run) == unbroken[0], launch.log(run)
    assert _same_weights(run, unbroken[1])
    assert "preempt.ckpt" in launch.log(run)


def test_two_nodes_resume_after_requeue(launch, cluster):
    words = [*TOY, "--name", "nodes", "--trainer.max_epochs=6", "-c", "configs/trainer/ddp_cpu.yaml"]
    words += ["--trainer.devices=1", "--trainer.num_nodes=2"]
    options = ["--set", "nodes=2", "--set", "mem=900M", "--set", 'setup=["export MASTER_ADDR=127.0.0.1"]']
    job, run = launch.submit(*options, command=words)
    _wait_for(run / "metrics.csv", run / "checkpoints/last.ckpt", launch, run)
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    assert cluster.wait(job, timeout=240) == "COMPLETED", launch.log(run)
    assert "preempt.ckpt (epoch" in launch.log(run)
    plain = launch.submit(*options, command=[*words, "--model.init_args.pause=0", "--name", "plain"])
    assert cluster.wait(plain[0]) == "COMPLETED", launch.log(plain[1])
    assert curve(run) == curve(plain[1])
    assert json.loads((run / "record.json").read_text())["cost"]["devices"] == 2


def test_an_array_with_one_failing_task(launch, cluster, tmp_path):
    sweep = tmp_path / "sweep.txt"
    sweep.write_text(
        "--model.init_args.lr=0.1\n--model.init_args.lr=0.2\n--data.init_args.fail=broken\n--model.init_args.lr=0.3\n"
    )
    words = [*TOY, "--name", "array", "--model.init_args.pause=0"]
    done = launch("sweep", str(sweep), "--set", "mem=400M", command=words)
    assert done.returncode == 0, done.stderr
    job = re.search(r"job (\d+)", done.stdout)
    assert job is not None
    end = time.monotonic() + 150
    while (
        cluster.run("squeue", "-h", "-j", job.group(1), "-t", "PENDING,RUNNING,COMPLETING").stdout
        and time.monotonic() < end
    ):
        time.sleep(1)
    finished = [json.loads(p.read_text()) for p in (launch.root / "user/array").glob("*/record.json")]
    assert len(finished) == 3
    failed = launch("status", str(next((launch.root / "user/array").glob("*/slurm/jobs.json")).parents[1]), "--failed")
    assert failed.stdout.split() == ["2"]
    again = launch("sweep", str(sweep), "--only", failed.stdout.strip(), "--set", "mem=400M", command=words)
    assert again.returncode == 0, again.stderr


def test_cancel(launch, cluster):
    job, run = launch.submit("--set", "mem=400M", command=[*TOY, "--name", "cancel", "--trainer.max_epochs=200"])
    assert launch("cancel", str(run)).returncode == 0
    assert cluster.wait(job, ("CANCELLED", "COMPLETED", "FAILED")) == "CANCELLED"


def test_dependency_waits_for_the_first_job(launch, cluster):
    first, _ = launch.submit(
        "--set", "mem=400M", command=[*TOY, "--name", "one", "--trainer.max_epochs=1", "--model.init_args.pause=2"]
    )
    second, run = launch.submit(
        "--set",
        "mem=400M",
        "--set",
        f"dependency=afterok:{first}",
        command=[*TOY, "--name", "two", "--trainer.max_epochs=1"],
    )
    assert cluster.state(second) == "PENDING"
    assert cluster.wait(first) == "COMPLETED"
    assert cluster.wait(second) == "COMPLETED", launch.log(run)


def _wait_for(metrics: Path, checkpoint: Path, launch: Launcher, run: Path) -> None:
    """Until the run is inside its second epoch."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if checkpoint.is_file():
            time.sleep(0.7)
            return
        time.sleep(0.2)
    raise AssertionError(f"no checkpoint in time\n{launch.log(run)}")


def _wait_for_restart(run: Path, number: int, cluster: Cluster, job: str, launch: Launcher) -> None:
    """Until the restarted job has ended an epoch of its own."""
    stopped = run / "checkpoints/preempt.ckpt"
    cluster.wait(job, ("PENDING",))
    cluster.wait(job, ("RUNNING",))
    end = time.monotonic() + 90
    while time.monotonic() < end:
        again = list((run / "slurm").glob(f"*_r{number}.log"))
        if again and (run / "checkpoints/last.ckpt").stat().st_mtime > stopped.stat().st_mtime:
            time.sleep(0.7)
            return
        time.sleep(0.2)
    raise AssertionError(f"restart {number} did not go on in time\n{launch.log(run)}")


def _wandb_steps(run: Path) -> list[int]:
    steps: list[int] = []
    for file in run.rglob("run-*.wandb"):
        steps += [int(float(row["trainer/global_step"])) for row in history(file) if "train/loss" in row]
    return sorted(steps)
