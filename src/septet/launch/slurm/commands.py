"""``septet launch render|test|submit|status|cancel|sweep|local``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from septet.launch.arguments import parse_stage_arguments
from septet.launch.errors import UsageError
from septet.launch.runs import check_name, create_run, find_run, new_run_id, remove_unused, runs_root, write_json
from septet.launch.slurm.resources import Cluster, Resources, load_cluster, load_resources
from septet.launch.slurm.script import option_value, render
from septet.launch.slurm.sweep import check_sweep, keep_lines, sweep_lines, union_of_options


def main(argv: Sequence[str]) -> int:
    """Everything after ``--`` is the command to launch."""
    words = list(argv)
    command = words[words.index("--") + 1 :] if "--" in words else []
    options = _parser().parse_args(words[: words.index("--")] if "--" in words else words)
    if options.action in ("status", "cancel"):
        return _status(options) if options.action == "status" else _cancel(options)
    if options.action == "sweep":
        check_sweep(options, command)
    elif not command:
        raise UsageError("nothing to launch: septet launch submit [options] -- fit -c configs/cne_n/smoke.yaml")
    return _launch(options, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="septet launch",
        description="SLURM jobs of runs: septet launch submit --resources cpu_small -- fit -c configs/cne_n/smoke.yaml",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    helps = {
        "render": "print the script",
        "test": "ask the scheduler whether the job could run (nothing is submitted)",
        "submit": "submit the job",
        "local": "run the identical script here, without a cluster",
        "sweep": "a job array over a file with one line of arguments per task",
    }
    for name, text in helps.items():
        job = actions.add_parser(name, help=text)
        job.add_argument("--cluster", help="YAML file or shipped name (configs/clusters)")
        job.add_argument("--resources", help="YAML file or shipped name (configs/resources)")
        job.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override one option of either"
        )
        job.add_argument("--name", help="of the run")
        if name == "sweep":
            job.add_argument("file", nargs="?", help="one line of further arguments per task")
            job.add_argument("--only", help="task numbers to submit again, for example 0,3,7")
            job.add_argument("--wandb", metavar="SWEEP", help="a W&B sweep's ENTITY/PROJECT/ID instead of a file")
            job.add_argument("--count", type=int, default=1, help="runs of the W&B sweep, one agent each (default 1)")
    for name, text in {"status": "state of a run's jobs", "cancel": "cancel a run's jobs"}.items():
        job = actions.add_parser(name, help=text)
        job.add_argument("run")
        job.add_argument("--json", action="store_true", help="print one JSON document")
        if name == "status":
            job.add_argument("--failed", action="store_true", help="only the numbers of failed tasks, for sweep --only")
    return parser


def _overrides(pairs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``--set key=value`` pairs, sorted into those of the cluster and those of the resources."""
    import yaml

    cluster_keys = {f.name for f in fields(Cluster)}
    cluster: dict[str, Any] = {}
    resources: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r}: write KEY=VALUE")
        value = text if key in ("time", "mem") else yaml.safe_load(text)
        (cluster if key in cluster_keys else resources)[key] = value
    return cluster, resources


def _launch(options: argparse.Namespace, command: list[str]) -> int:
    """Check, make the run directory, write the script and do what was asked."""
    from septet.launch.record import git_state

    of_cluster, of_resources = _overrides(options.set)
    cluster = load_cluster(options.cluster, of_cluster)
    agents = getattr(options, "wandb", None)
    resources = load_resources(options.resources, {**of_resources, **({"requeue": False} if agents else {})})
    python = cluster.python or (sys.executable if cluster.container == "none" else "python")
    if agents:  # W&B itself starts a preempted run again, under a new id
        words, slug, name = [python, "-m", "wandb", "agent", "--count", "1", agents], "sweeps", agents.split("/")[-1]
    else:
        words, slug, name = check_command(command, options.name, resources, python)
    check_name(name)
    lines = sweep_lines(options) if options.action == "sweep" else []
    if any(lines):  # a typo in the lines would fail in every task
        printed_config([*(command[1:] if command[0] == "septet" else command), *union_of_options(lines)])
    if options.action == "render":
        run = runs_root().resolve() / slug / name / "RUN_ID"
    else:
        run = create_run(runs_root().resolve(), slug, name, new_run_id())
    folder = run / "slurm"
    text = render(
        words, cluster, resources, run, workdir=Path.cwd(), commit=str(git_state()["commit"] or ""),
        array=keep_lines(lines, folder) if lines else None, array_size=len(lines),
    )  # fmt: skip
    if options.action == "render":
        print(text, end="")
        return 0
    folder.mkdir(exist_ok=True)
    script = folder / "job.sh"
    script.write_text(text)
    if options.action == "local":
        return _local(script)
    try:
        return _ask(script, resources) if options.action == "test" else _submit(script, run, resources)
    finally:
        if not (folder / "jobs.json").is_file():  # nothing was submitted
            remove_unused(run)


def check_command(
    command: list[str], name: str | None, resources: Resources, python: str
) -> tuple[list[str], str, str]:
    """Words of the command under an interpreter, the slug and the run's name.

    Raises:
        UsageError: if the configuration does not parse or contradicts the resources.
    """
    words = command[1:] if command[0] == "septet" else list(command)
    stage = words[0]
    if stage not in ("fit", "validate", "test", "predict"):
        raise UsageError(f"launch runs fit, validate, test or predict, not {stage!r}")
    parsed = parse_stage_arguments(stage, words[1:])
    config = printed_config(words)
    for key, wanted in (("devices", resources.tasks_per_node), ("num_nodes", resources.nodes)):
        given = (config.get("trainer") or {}).get(key, "auto")
        explicit = option_value(words, f"--trainer.{key}")
        if explicit is None and isinstance(given, int) and given not in (-1, 1) and given != wanted:
            raise UsageError(
                f"the configuration sets trainer.{key}: {given}, the resources give {wanted}; "
                "change nodes, gpus or tasks"
            )
    accelerator = str((config.get("trainer") or {}).get("accelerator", "auto"))
    if resources.gpus and accelerator == "cpu":
        raise UsageError(
            f"the job asks for {resources.gpus} GPU(s) a node, the configuration sets trainer.accelerator: cpu; "
            "add -c configs/trainer/gpu.yaml, or ask for gpus=0"
        )
    slug = _slug(config)
    run_name = name or parsed.run_name
    program = [python, "-m", "septet", *words]
    return [*program, *([] if option_value(words, "--name") else ["--name", run_name])], slug, run_name


def printed_config(words: Sequence[str]) -> dict[str, Any]:
    """The composed configuration, parsed by the command itself in a child process.

    Raises:
        UsageError: with the command's own sentence.
    """
    import yaml

    done = subprocess.run(
        [sys.executable, "-m", "septet", *words, "--print_config"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["the configuration does not parse"]
        raise UsageError(lines[-1].removeprefix("septet: "))
    return dict(yaml.safe_load(done.stdout))


def _slug(config: dict[str, Any]) -> str:
    from septet.launch.methods import METHODS

    path = str((config.get("model") or {}).get("class_path", ""))
    strategy = str((config.get("trainer") or {}).get("strategy", ""))
    if "fairkv" in strategy.lower():
        return "fairkv"
    parts = path.split(".")
    return parts[2] if parts[:2] == ["septet", "lightning_modules"] and parts[2] in METHODS else "user"


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        raise UsageError(f"{tool} is not on this machine; run on a login node, or use `septet launch local`")


def _scheduler(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Ask the scheduler.

    Raises:
        UsageError: if its tools are missing or nobody answers.
    """
    _need(words[0])
    remedy = "ask your cluster's administrators, or use `septet launch local`"
    try:
        done = subprocess.run(
            list(words), capture_output=True, text=True, timeout=60, check=False, env=_job_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{words[0]} did not answer in 60 s: the scheduler seems to be down; {remedy}") from error
    if done.returncode != 0 and re.search(
        r"resolve_ctls_from_dns_srv|[Uu]nable to contact slurm controller", done.stderr
    ):
        raise UsageError(f"no scheduler answers {words[0]} on this machine; {remedy}")
    return done


def _job_environment() -> dict[str, str]:
    """What a job inherits: a W&B service of this process would outlive the job and keep its run id in use."""
    return {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}


def _sbatch(words: Sequence[str], resources: Resources) -> str:
    """What the scheduler says; a refusal names what was asked for."""
    done = _scheduler(["sbatch", *words])
    if done.returncode != 0:
        asked = ", ".join(
            f"{key} {value}" for key, value in (
                ("nodes", resources.nodes), ("gpus", resources.gpus), ("tasks", resources.tasks_per_node),
                ("cpus", resources.cpus), ("mem", resources.mem), ("time", resources.time),
            ) if value
        )  # fmt: skip
        sentence = " ".join(done.stderr.split())
        raise UsageError(f"the scheduler refuses: {sentence} (asked: {asked}); change --resources, --cluster or --set")
    return " ".join((done.stdout or done.stderr).split())


def _ask(script: Path, resources: Resources) -> int:
    print(_sbatch(["--test-only", str(script)], resources))
    return 0


def _submit(script: Path, run: Path, resources: Resources) -> int:
    """Ask first, submit, and note the job id in the run directory."""
    _sbatch(["--test-only", str(script)], resources)
    job = _sbatch(["--parsable", str(script)], resources).split(";")[0]
    write_json(run / "slurm" / "jobs.json", [*_jobs(run), {"job": job, "script": "slurm/job.sh"}])
    print(f"job {job}\nrun: {run}")
    return 0


def _local(script: Path) -> int:
    """The identical script under bash, as a job of one task would see it; its log is shown while it runs."""
    variables = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_RESTART_COUNT": "0",
        "SLURM_JOB_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    outside = {k: v for k, v in _job_environment().items() if not k.startswith("SLURM_")}
    child = subprocess.Popen(["bash", str(script)], env={**outside, **variables})
    shown = 0
    while True:
        code = child.poll()
        text = "".join(log.read_text(errors="replace") for log in sorted(script.parent.glob("*.log")))
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if code is not None:
            return code
        time.sleep(0.3)


def _jobs(run: Path) -> list[dict[str, str]]:
    file = run / "slurm" / "jobs.json"
    return list(json.loads(file.read_text())) if file.is_file() else []


def _run_jobs(run: str) -> tuple[Path, list[str]]:
    path = Path(run) if (Path(run) / "slurm").is_dir() else _find_launched(run)
    jobs = [entry["job"] for entry in _jobs(path)]
    if not jobs:
        raise UsageError(f"{path} was not submitted from here (no slurm/jobs.json)")
    return path, jobs


def _find_launched(run: str) -> Path:
    """Runs whose job has not begun have no configuration yet."""
    found = sorted(p.parents[1] for p in runs_root().glob("*/*/*/slurm/jobs.json"))
    matching = [p for p in found if p.name == run or f"{p.parent.parent.name}/{p.parent.name}" == run]
    return matching[-1] if matching else find_run(run)


def _status(options: argparse.Namespace) -> int:
    """State of each job: the queue's, else what the record says."""
    path, jobs = _run_jobs(options.run)
    states = []
    for job in jobs:
        done = _scheduler(["squeue", "--noheader", "--states=all", "--array", "--format=%i|%T|%M|%R", f"--jobs={job}"])
        lines = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 3]
        states += [{"job": i, "state": state, "time": t, "reason": r} for i, state, t, r in lines]
        if not lines:
            states.append({"job": job, "state": _recorded(path), "time": "", "reason": "left the queue"})
    if options.action == "status" and options.failed:
        bad = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        print(",".join(e["job"].partition("_")[2] or "0" for e in states if e["state"] in bad))
    elif options.json:
        print(json.dumps({"run": str(path), "jobs": states}, indent=2))
    else:
        for entry in states:
            print(f"{entry['job']:<12} {entry['state']:<12} {entry['time']:<10} {entry['reason']}")
    return 0


def _recorded(run: Path) -> str:
    record = run / "record.json"
    return str(json.loads(record.read_text())["status"]).upper() if record.is_file() else "UNKNOWN"


def _cancel(options: argparse.Namespace) -> int:
    _, jobs = _run_jobs(options.run)
    for job in jobs:
        done = _scheduler(["scancel", job])
        if done.returncode != 0 and not re.search(r"[Ii]nvalid job", done.stderr):
            raise UsageError(f"scancel {job}: {' '.join(done.stderr.split())}")
        print(f"cancelled {job}")
    return 0
