"""The run record: what ran, on what, with which result. This is its only writer."""

from __future__ import annotations

import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from septet import __version__
from septet.datamodules.scenarios.configuration import configuration_sha256
from septet.launch.errors import UsageError
from septet.launch.latency import BatchClock
from septet.launch.runs import ledger, read_record, runs_root, write_json
from septet.lightning_modules.task import Task, is_fast_run

SCHEMA = 1
_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "transformers", "torch-geometric", "triton")


class RecordRun(Callback):
    """Writes ``record.json`` (whole, then renamed; also on failure) and one ledger row per finished evaluation.

    The command line makes one for every run and calls :meth:`write`. In a Trainer of your own ``RecordRun()`` is
    enough: the run directory is then ``trainer.default_root_dir``, the ledger lies in ``$SEPTET_RUNS``.

    Args:
        run: the run directory.
        stage: fit, validate, test or predict; None: what the trainer does.
        slug: the method; None: from the module's class.
        seed: of the run.
        root: folder of all runs, holding the ledger; None: three levels above ``run``.
        in_run: True when an existing run is evaluated; names then carry the stage.
        checkpoint: the weights' file and position, as printed.
        latency_batches: batches of an evaluation whose latency is measured.
        warmup: batches before them.
    """

    def __init__(
        self,
        run: Path | None = None,
        stage: str | None = None,
        slug: str | None = None,
        *,
        seed: int | None = None,
        root: Path | None = None,
        in_run: bool = False,
        checkpoint: str | None = None,
        latency_batches: int = 20,
        warmup: int = 5,
    ) -> None:
        self._given = (run, stage, slug)
        self.run, self.stage, self.slug = run or Path(), stage or "", slug or ""
        self.root = root or (run.parents[2] if run is not None else runs_root())
        self.seed, self.in_run, self.checkpoint = seed, in_run, checkpoint
        self.began = False
        self._clock = BatchClock(latency_batches, warmup)
        self._begin()

    def _begin(self) -> None:
        self.started = datetime.now(UTC)
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        self._written = False

    @property
    def path(self) -> Path:
        """``record.json``, or ``record-<stage>.json`` inside an existing run."""
        return self.run / (f"record-{self.stage}.json" if self.in_run else "record.json")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget earlier memory peaks and keep the environment."""
        if self._given[0] is None:
            self._begin()
            self.run = Path(trainer.default_root_dir).resolve()
            self.run.mkdir(parents=True, exist_ok=True)
        self.stage = self._given[1] or str(trainer.state.fn.value if trainer.state.fn else stage)
        self.slug = self._given[2] or _slug(pl_module)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if trainer.is_global_zero and not is_fast_run(trainer):
            write_environment(self.run)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on an error is a failure, not wrong input."""
        self.began = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for training."""
        self.began = True

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for training."""
        self.began = True

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Time a batch of a validation of its own."""
        if self.stage == "validate":
            self._clock.start(pl_module.device)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """As above."""
        self._clock.stop()

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Time a batch of the test."""
        self._clock.start(pl_module.device)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """As above."""
        self._clock.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """In a Trainer of one's own: a failed stage leaves its record."""
        if self._given[0] is None and self.stage:
            self.write(trainer, "interrupted" if isinstance(exception, KeyboardInterrupt) else "failed")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """In a Trainer of one's own: the stage has ended."""
        if self._given[0] is None and self.stage and trainer.state.status.value != "interrupted":
            self.write(trainer, "finished")

    def write(self, trainer: Trainer, status: str) -> dict[str, Any] | None:
        """Write the record once; a finished evaluation also enters the ledger.

        Args:
            trainer: after its stage ended.
            status: finished, failed, interrupted or preempted.
        """
        if self._written or not trainer.is_global_zero or is_fast_run(trainer):
            return None
        self._written = True
        record = self._record(trainer, status)
        write_json(self.path, record)
        if status == "finished":
            ledger(self.root).add(record)
        return record

    def _record(self, trainer: Trainer, status: str) -> dict[str, Any]:
        module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
        metrics, nonfinite = _metrics(trainer)
        sure = status == "finished"
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": self.run.name,
            "name": self.run.parent.name,
            "method": self.slug,
            "dataset": _ask(data, "record_dataset", type(data).__name__ if data is not None else "", sure=sure),
            "scenario": _ask(data, "record_scenario", {}, sure=sure),
            "stage": self.stage,
            "status": status,
            "seed": self.seed if self.seed is not None else _env_seed(),
            "metrics": metrics,
            "monitor": _monitor(module),
            "nonfinite": nonfinite,
            "checkpoint": self.checkpoint or _best_checkpoint(trainer),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "config_sha256": _sha256(self.run / "config.yaml"),
            "cost": self._cost(trainer),
            "versions": versions(),
            "git": git_state(),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        fields = _ask(module, "record_fields", {}, sure=sure)
        return {**record, **fields, "model": self._model(module, fields), "criteria": self._criteria(record, fields)}

    def _model(self, module: LightningModule, fields: dict[str, Any]) -> dict[str, Any]:
        """What the module says about the model, with its number of parameters."""
        block = fields.get("model")
        named = dict(block) if isinstance(block, Mapping) else {"name": str(block or self.slug)}
        return {"params": sum(p.numel() for p in module.parameters()), **named}

    def _criteria(self, record: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Latency of a batch, device and peak memory; what the module measures itself goes on top."""
        cost, latency = record["cost"], self._clock.criteria()
        shared = {"device": cost["device"], "peak_mem_bytes": cost["peak_vram_bytes"] or cost["peak_rss_bytes"]}
        return {**latency, **shared, **fields.get("criteria", {})}

    def _cost(self, trainer: Trainer) -> dict[str, Any]:
        device = trainer.strategy.root_device
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
        )
        wall = round(time.perf_counter() - self._wall, 3)
        return {
            "wall_s": wall,
            "total_wall_s": round(wall + self._earlier_wall(), 3),
            "cpu_s": round(_cpu_seconds() - self._cpu, 3),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
            "peak_vram_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
            "device": f"{device.type}: {name}",
            "devices": trainer.world_size,
        }

    def _earlier_wall(self) -> float:
        """Seconds of the pieces that a resumed run left records of (kill -9 leaves none)."""
        if self.stage != "fit" or not self.path.is_file():
            return 0.0
        try:
            earlier = read_record(self.path)
        except UsageError:
            return 0.0
        cost = earlier.get("cost") or {}
        return float(cost.get("total_wall_s") or cost.get("wall_s") or 0.0)


def _ask(thing: Any, method: str, default: Any, *, sure: bool = True) -> Any:
    """What an optional method of a module or datamodule says; after a failure it may not be able to (``sure``)."""
    if not isinstance(thing, LightningModule | LightningDataModule) or not hasattr(thing, method):
        return default
    try:
        return getattr(thing, method)()
    except Exception:
        if sure:
            raise
        return default


def _slug(module: LightningModule) -> str:
    """The method's slug from its class, ``user`` for somebody's own."""
    parts = type(module).__module__.split(".")
    return parts[2] if parts[:2] == ["septet", "lightning_modules"] and len(parts) > 2 else "user"


def _env_seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return int(seed) if seed.isdigit() else None


def _monitor(module: LightningModule) -> dict[str, str] | None:
    """The headline metric of one of our tasks and its direction, for leaderboards."""
    return {"metric": module.monitor, "mode": module.mode} if isinstance(module, Task) else None


def _metrics(trainer: Trainer) -> tuple[dict[str, float | None], list[str]]:
    """Logged metrics as floats; non-finite ones become None and are named."""
    values = {k: float(v) for k, v in trainer.callback_metrics.items()}
    nonfinite = sorted(k for k, v in values.items() if not math.isfinite(v))
    return {k: (v if math.isfinite(v) else None) for k, v in values.items()}, nonfinite


def _best_checkpoint(trainer: Trainer) -> str | None:
    paths = [str(getattr(callback, "best_model_path", "")) for callback in trainer.checkpoint_callbacks]
    return next((path for path in paths if path), None)


def _cpu_seconds() -> float:
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def _sha256(path: Path) -> str | None:
    """Sum of a run's configuration, the same for every seed and machine; None without a file."""
    return configuration_sha256(path.read_text()) if path.is_file() else None


def versions() -> dict[str, str]:
    """Installed versions of what decides a number."""
    found = {"septet": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit and dirtiness of the checkout this package runs from; empty values in an installed wheel."""
    here = Path(__file__).resolve().parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "-uno")) if commit else None}


def write_environment(run: Path) -> None:
    """``env/``: versions, hardware and the scheduler's variables."""
    folder = run / "env"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "environment.json",
        {
            "versions": versions(),
            "git": git_state(),
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "slurm": {k: v for k, v in os.environ.items() if k.startswith("SLURM_")},
            "command": sys.argv,
        },
    )
