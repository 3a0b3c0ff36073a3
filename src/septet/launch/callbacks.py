"""Callbacks that every run gets: last checkpoint, plain progress lines, predictions on disk."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from septet.launch.loggers import RunCSVLogger, backfill
from septet.lightning_modules.task import is_fast_run


class LastCheckpoint(Checkpoint):
    """``last.ckpt`` at every validation, at the end of every epoch and every few minutes, replaced atomically.

    Args:
        path: of the file.
        every_minutes: between two saves inside an epoch.
    """

    def __init__(self, path: Path, every_minutes: float = 5.0) -> None:
        self.path, self.seconds = path, every_minutes * 60
        self._saved = time.monotonic()

    def _save(self, trainer: Trainer) -> None:
        if trainer.sanity_checking or is_fast_run(trainer) or trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            logger.save()
        temporary = self.path.with_name("last.tmp.ckpt")
        trainer.save_checkpoint(temporary)
        trainer.strategy.barrier("last checkpoint")
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the time is up; rank zero's clock decides for all."""
        due = time.monotonic() - self._saved > self.seconds
        if trainer.world_size > 1 and trainer.global_step % 20 == 0:
            due = trainer.strategy.broadcast(due)
        elif trainer.world_size > 1:
            due = False
        if due:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation inside an epoch; the one at its end is covered by the epoch's own save."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after every epoch."""
        self._save(trainer)


class ContinueCurve(Callback):
    """After a restart, drops logged rows of steps that will be done again and hands over rows that were kept back."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the CSV at the restored step."""
        for logger in trainer.loggers:
            if isinstance(logger, RunCSVLogger) and trainer.is_global_zero:
                logger.writer.forget_from(trainer.global_step)
        if trainer.is_global_zero and trainer.global_step > 0:
            backfill(trainer.loggers, Path(trainer.default_root_dir))


class PlainProgress(Callback):
    """One line now and then, for log files and terminals that are none.

    Args:
        seconds: at least so long between two lines inside an epoch.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Epoch, batch and metrics."""
        if trainer.is_global_zero and time.monotonic() - self._last > self.seconds:
            self._last = time.monotonic()
            total = trainer.num_training_batches
            print(f"epoch {trainer.current_epoch} batch {batch_idx + 1}/{total} {_values(trainer)}", flush=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Metrics of the epoch."""
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch} done {_values(trainer)}", flush=True)


def _values(trainer: Trainer) -> str:
    """The headline metric, the losses, then the others; eight at most."""
    headline = str(getattr(trainer.lightning_module, "monitor", ""))
    shown = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith(("_step", "_epoch"))}
    names = sorted(shown, key=lambda k: (k != headline, not k.endswith("/loss"), not k.startswith("val/")))
    return " ".join(f"{k}={shown[k]:.4g}" for k in names[:8])


class PredictionWriter(Callback):
    """Collects the flat dicts of ``predict_step`` and writes ``predictions.csv`` whole, then renamed.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._rows: list[dict[str, Any]] = []
        self._lists = False

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep rows of one batch; other outputs are the method's own business."""
        if isinstance(outputs, list):
            self._lists = True
            self._rows += [row for row in outputs if isinstance(row, dict)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what this rank collected (rank r > 0 of several: ``predictions-<r>.csv``)."""
        name = "predictions.csv" if trainer.global_rank == 0 else f"predictions-{trainer.global_rank}.csv"
        path = self.run / name
        if not self._rows:
            if self._lists:  # what lies there is of an earlier call
                path.unlink(missing_ok=True)
                print("predictions: 0 rows", flush=True)
            return
        keys = list(dict.fromkeys(key for row in self._rows for key in row))
        temporary = path.with_name(f".{name}.tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, fieldnames=keys)
            writer.writeheader()
            writer.writerows(self._rows)
        replaced = " (those of an earlier call are replaced)" if path.is_file() else ""
        temporary.replace(path)
        print(f"predictions: {len(self._rows)} rows in {path}{replaced}", flush=True)
        self._rows = []
