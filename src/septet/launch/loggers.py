"""Loggers bound to the run directory: a CSV that survives a resume, W&B that stays one run."""

from __future__ import annotations

import csv
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from septet.launch import signals
from septet.launch.errors import UsageError


class AppendingWriter(ExperimentWriter):
    """Lightning's CSV writer, except that an existing file is continued, not deleted."""

    def __init__(self, log_dir: str, name: str) -> None:
        super().__init__(log_dir)
        self.metrics_file_path = str(Path(log_dir) / name)
        if Path(self.metrics_file_path).is_file():
            with open(self.metrics_file_path, newline="") as handle:
                self.metrics_keys = list(csv.DictReader(handle).fieldnames or [])

    def _check_log_dir_exists(self) -> None:
        """Never delete what is there."""

    def forget_from(self, step: int) -> None:
        """Drop rows of steps that a resumed run will do again."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if int(row["step"]) < step]
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)


class RunCSVLogger(CSVLogger):
    """Writes ``<run>/metrics.csv`` (or ``metrics-<stage>.csv``) and continues it after a restart."""

    def __init__(self, run: Path, name: str = "metrics.csv") -> None:
        super().__init__(save_dir=run, name="", version="", flush_logs_every_n_steps=50)
        self._run, self._file = run, name

    @property
    def log_dir(self) -> str:
        """The run directory itself."""
        return str(self._run)

    @property
    def writer(self) -> AppendingWriter:
        """The file's writer, made on first use."""
        if not isinstance(self._experiment, AppendingWriter):
            self._run.mkdir(parents=True, exist_ok=True)
            self._experiment = AppendingWriter(str(self._run), self._file)
        return self._experiment

    @property
    @rank_zero_only
    def experiment(self) -> ExperimentWriter:
        """The writer, as Lightning asks for it; None on other ranks."""
        return self.writer

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Hyper-parameters stand in ``config.yaml``; nothing to write."""

    @rank_zero_only
    def save(self) -> None:
        """Append what was logged since the last time."""
        Logger.save(self)
        self.writer.save()


def survive_signals(logger: Any) -> Any:
    """Keep a logger whose background service died of the scheduler's signal from taking the training down.

    SLURM sends SIGTERM to every process of a job, also to W&B's service. What the logger refuses from then on, and what
    it had not yet written, stands in ``metrics.csv``; :func:`backfill` hands it over after the restart.
    """

    def guarded(action: Any) -> Any:
        def call(*words: Any, **options: Any) -> None:
            try:
                action(*words, **options)
            except Exception:
                if not signals.noted:
                    raise

        return call

    for name in ("log_metrics", "save", "finalize"):
        setattr(logger, name, guarded(getattr(logger, name)))
    return logger


def backfill(loggers: list[Any], run: Path) -> None:
    """Log the rows of ``metrics.csv`` that no offline W&B file of this run holds, so that the step axis has no gap."""
    missing = [logger for logger in loggers if type(logger).__name__ == "WandbLogger"]
    table = run / "metrics.csv"
    if not missing or not table.is_file():
        return
    from septet.launch.wandb_file import logged_steps

    known = logged_steps(run)
    if known is None:
        return
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        step = int(row["step"])
        values = {k: float(v) for k, v in row.items() if v and k != "step" and (step, k) not in known}
        if set(values) - {"epoch"}:
            for logger in missing:
                logger.log_metrics(values, step)


def bind_loggers(configured: Any, run: Path, *, slug: str, name: str, stage: str, tags: list[str]) -> None:
    """Point configured loggers (namespaces with class_path) at the run directory, before they are instantiated.

    Args:
        configured: ``trainer.logger`` as parsed: None, bool, one namespace or a list of them.
        run: the run directory.
        slug: the method, first half of the W&B group.
        name: of the run, second half of the group.
        stage: W&B job type.
        tags: method and data set.
    """
    if isinstance(configured, list):  # files of loggers append; the same kind twice is the later one
        last = {str(getattr(entry, "class_path", number)): entry for number, entry in enumerate(configured)}
        configured[:] = list(last.values())
    for entry in configured if isinstance(configured, list) else [configured]:
        path = str(getattr(entry, "class_path", "") or "")
        if path.endswith("WandbLogger"):
            extra = _bind_wandb(entry.init_args, run, slug=slug, name=name, stage=stage, tags=tags)
            entry["dict_kwargs"] = {**extra, **(entry.get("dict_kwargs") or {})}
        elif path.endswith("TensorBoardLogger"):
            entry.init_args.save_dir, entry.init_args.name, entry.init_args.version = str(run), "", "tensorboard"
        elif path and hasattr(getattr(entry, "init_args", None), "save_dir"):
            entry.init_args.save_dir = str(run)


def _bind_wandb(init: Any, run: Path, *, slug: str, name: str, stage: str, tags: list[str]) -> dict[str, Any]:
    """One W&B run per run directory: its id, a sweep agent's or our own, is written once; ``resume="allow"``."""
    offline = bool(getattr(init, "offline", False)) or os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if not offline and not wandb_key():
        print("wandb: no API key found, logging offline (septet logs sync RUN uploads later)", flush=True)
        os.environ["WANDB_MODE"] = "offline"
        offline = True
    if offline and getattr(init, "log_model", False):
        raise UsageError(
            "WandbLogger: log_model cannot be used offline; set log_model: false or offline: false with a key"
        )
    os.environ.setdefault("WANDB_SILENT", "true")
    identity = run / "wandb_id"
    if not identity.is_file():
        of_agent = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        identity.write_text(of_agent or secrets.token_hex(4))
    init.save_dir, init.id, init.name = str(run), identity.read_text().strip(), run.name
    init.project = getattr(init, "project", None) or "septet"
    if init.project == "lightning_logs":
        init.project = "septet"
    return {"group": f"{slug}/{name}", "job_type": stage, "tags": tags, "resume": "allow"}


def wandb_key() -> bool:
    """Whether a W&B key can be found without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
