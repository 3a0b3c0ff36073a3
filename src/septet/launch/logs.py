"""``septet logs sync RUN`` uploads what W&B wrote offline; ``septet logs artifacts RUN`` adds weights and report."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError
from septet.launch.runs import find_run, read_record


def main(argv: Sequence[str]) -> int:
    """One action on the logs of one run."""
    parser = argparse.ArgumentParser(prog="septet logs", description="W&B logs of a run.")
    actions = parser.add_subparsers(dest="action", required=True)
    sync = actions.add_parser("sync", help="upload a run's offline W&B files; they merge into one run by its id")
    sync.add_argument("run", help="directory, run id or slug/name")
    sync.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    artifacts = actions.add_parser("artifacts", help="add checkpoints (aliases best, latest) and the report to W&B")
    artifacts.add_argument("run", help="directory, run id or slug/name")
    options = parser.parse_args(argv)
    run = find_run(options.run)
    return _sync(run, dry=options.dry_run) if options.action == "sync" else _artifacts(run)


def _sync(run: Path, *, dry: bool) -> int:
    folders = sorted(p for p in run.rglob("offline-run-*") if p.is_dir())
    if not folders:
        raise UsageError(f"{run} holds no offline W&B files (configs/logger/wandb_offline.yaml writes them)")
    for folder in folders:
        print(folder)
    program = shutil.which("wandb", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise UsageError("wandb is not installed: pip install 'septet[logging]'")
    words = [program, "sync", *(["--dry-run"] if dry else ["--yes"]), *map(str, folders)]
    return subprocess.run(words, check=False).returncode


def _artifacts(run: Path) -> int:
    """Log ``best.ckpt``, ``last.ckpt`` and ``report/`` into the run's W&B id; offline without a key."""
    identity = run / "wandb_id"
    if not identity.is_file():
        raise UsageError(f"{run} was not logged to W&B; add -c configs/logger/wandb_offline.yaml to its fit")
    weights = [(a, run / "checkpoints" / f"{n}.ckpt") for n, a in (("best", "best"), ("last", "latest"))]
    found = [(alias, path) for alias, path in weights if path.is_file()]
    report = run / "report"
    if not found and not report.is_dir():
        raise UsageError(f"{run} holds neither checkpoints nor a report (septet report RUN writes one)")
    metadata, project = _headline(run), _project(run)
    session = _session(run, project, identity.read_text().strip())
    for alias, path in found:
        _log(session, f"model-{session.id}", "model", path, [alias], metadata)
        print(f"{path} as model-{session.id}:{alias}")
    if report.is_dir():
        _log(session, f"report-{session.id}", "report", report, ["latest"], metadata)
        print(f"{report} as report-{session.id}:latest")
    else:
        print(f"no report yet: septet report {run}")
    session.finish()
    return 0


def _session(run: Path, project: str, identity: str) -> Any:
    """The run's W&B session, opened again."""
    from septet.launch.loggers import wandb_key

    try:
        import wandb
    except ImportError as error:
        raise UsageError("wandb is not installed: pip install 'septet[logging]'") from error
    offline = os.environ.get("WANDB_MODE") == "offline" or not wandb_key()
    os.environ.setdefault("WANDB_SILENT", "true")
    if offline:
        print("wandb: offline; upload with `septet logs sync`")
    return wandb.init(
        project=project, id=identity, resume="allow", dir=run, name=run.name,
        mode="offline" if offline else "online",
    )  # fmt: skip


def _log(session: Any, name: str, kind: str, path: Path, aliases: list[str], metadata: dict[str, Any]) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=metadata)
    if path.is_dir():
        artifact.add_dir(str(path))
    else:
        artifact.add_file(str(path))
    session.log_artifact(artifact, aliases=aliases)


def _project(run: Path) -> str:
    """The project that the run's own logger used."""
    import yaml

    try:
        loggers = (yaml.safe_load((run / "config.yaml").read_text()).get("trainer") or {}).get("logger")
    except (OSError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(f"the configuration {run / 'config.yaml'} cannot be read ({error})") from error
    for entry in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(entry, dict) and str(entry.get("class_path", "")).endswith("WandbLogger"):
            return str((entry.get("init_args") or {}).get("project") or "septet")
    return "septet"


def _headline(run: Path) -> dict[str, Any]:
    """Method, data set, seed and figures of the run's record."""
    file = run / "record.json"
    record = read_record(file) if file.is_file() else {}
    return {key: record[key] for key in ("method", "dataset", "seed", "epoch", "step", "metrics") if key in record}
