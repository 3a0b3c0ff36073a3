"""``septet launch render|test|submit|status|cancel|sweep|local``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from septet.launch.arguments import parse_stage_arguments
from septet.launch.errors import UsageError
from septet.launch.runs import create_run, find_run, new_run_id, runs_root, write_json
from septet.launch.slurm.resources import Cluster, Resources, load_cluster, load_resources
from septet.launch.slurm.script import option_value, render


def main(argv: Sequence[str]) -> int:
    """Everything after ``--`` is the command to launch."""
    words = list(argv)
    command = words[words.index("--") + 1 :] if "--" in words else []
    options = _parser().parse_args(words[: words.index("--")] if "--" in words else words)
    if options.action in ("status", "cancel"):
        return _status(options) if options.action == "status" else _cancel(options)
    if options.action == "sweep":
        _check_sweep(options, command)
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
    lines = _sweep_lines(options) if options.action == "sweep" else []
    if any(lines):  # a typo in the lines would fail in every task
        printed_config([*(command[1:] if command[0] == "septet" else command), *shlex.split(lines[0])])
    run = runs_root().resolve() / slug / name / "RUN_ID"
    if options.action != "render":
        run = create_run(runs_root().resolve(), slug, name, new_run_id())
    folder = run / "slurm"
    parameters = _keep_lines(lines, folder) if lines else None
    text = render(
        words, cluster, resources, run, workdir=Path.cwd(), commit=str(git_state()["commit"] or ""),
        array=parameters, array_size=len(lines),
    )  # fmt: skip
    if options.action == "render":
        print(text, end="")
        return 0
    folder.mkdir(exist_ok=True)
    script = folder / "job.sh"
    script.write_text(text)
    if options.action == "test":
        code = _sbatch(["--test-only", str(script)])
        shutil.rmtree(run)
        return code
    return _local(script) if options.action == "local" else _submit(script, run)


def _check_sweep(options: argparse.Namespace, command: list[str]) -> None:
    """A sweep is either a parameter file with a command, or a W&B sweep that has its own."""
    if options.wandb is None:
        if options.file is None or not command:
            raise UsageError("nothing to sweep: septet launch sweep FILE -- fit -c ..., or --wandb ENTITY/PROJECT/ID")
    elif options.file is not None or options.only or command:
        raise UsageError("--wandb takes parameters and command from the sweep itself; leave FILE, --only and -- out")
    elif options.count < 1 or options.wandb.count("/") != 2:
        raise UsageError(f"--wandb {options.wandb!r} --count {options.count}: ENTITY/PROJECT/ID and at least one run")


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


def _sweep_lines(options: argparse.Namespace) -> list[str]:
    """A sweep's lines of arguments; ``--only`` picks some of them again. Agents need none: empty lines."""
    if options.wandb:
        return [""] * options.count
    shipped = Path(str(files("septet"))) / options.file
    file = Path(options.file) if Path(options.file).is_file() else shipped
    if not file.is_file():
        raise UsageError(f"no parameter file {options.file!r}: one line of arguments per task")
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if options.only:
        try:
            lines = [lines[int(number)] for number in options.only.split(",")]
        except (ValueError, IndexError) as error:
            raise UsageError(
                f"--only {options.only!r}: numbers from 0 to {len(lines) - 1}, separated by commas"
            ) from error
    if not lines:
        raise UsageError(f"{options.file} holds no line")
    return lines


def _keep_lines(lines: list[str], folder: Path) -> Path:
    """The lines beside the script, where the tasks read them."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "parameters.txt"
    target.write_text("\n".join(lines) + "\n")
    return target


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        raise UsageError(f"{tool} is not on this machine; run on a login node, or use `septet launch local`")


def _scheduler(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    _need(words[0])
    try:
        return subprocess.run(list(words), capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{words[0]} did not answer in 60 s: the scheduler seems to be down") from error


def _sbatch(words: Sequence[str], *, show: bool = True) -> int:
    done = _scheduler(["sbatch", *words])
    sentence = " ".join((done.stderr or done.stdout).split())
    if done.returncode != 0:
        raise UsageError(f"the scheduler refuses: {sentence}")
    if show:
        print(sentence)
    return 0


def _submit(script: Path, run: Path) -> int:
    """Ask first, submit, and note the job id in the run directory; a refused run leaves nothing."""
    try:
        _sbatch(["--test-only", str(script)], show=False)
    except UsageError:
        shutil.rmtree(run)
        raise
    done = _scheduler(["sbatch", "--parsable", str(script)])
    if done.returncode != 0:
        shutil.rmtree(run)
        raise UsageError(f"the scheduler refuses: {' '.join(done.stderr.split())}")
    job = done.stdout.strip().split(";")[0]
    write_json(run / "slurm" / "jobs.json", [*_jobs(run), {"job": job, "script": "slurm/job.sh"}])
    print(f"job {job}\nrun: {run}")
    return 0


def _local(script: Path) -> int:
    """The identical script under bash, as a job of one task would see it."""
    variables = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_RESTART_COUNT": "0",
        "SLURM_JOB_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    outside = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    environment = {**outside, **variables}
    code = subprocess.run(["bash", str(script)], env=environment, check=False).returncode
    for log in sorted(script.parent.glob("*.log")):
        print(log.read_text(), end="")
    return code


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
