"""Checkpoint at a batch boundary when the scheduler says stop, and leave with exit code 75."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from septet.launch import signals

PREEMPTED = 75


class Preempted(Exception):
    """Raised at a batch boundary after the checkpoint is on disk; the process exits 75."""


class SafePreemption(Checkpoint):
    """Turns SIGTERM and the requeue signal into a checkpoint at the next batch boundary.

    Lightning saves inside the handler on a requeue signal and saves nothing on SIGTERM; here both handlers only set
    a flag, which is reduced (max) over ranks at ``on_train_batch_end``; the strategy saves ``preempt.ckpt``
    collectively, and rank zero requeues if the requeue signal caused it.

    Args:
        every_n_batches: how often ranks compare flags (each time is one small collective).
        max_restarts: after so many restarts the job is not requeued again.
    """

    patience = 12.0  # seconds a validation may go on after the signal; the scheduler's default is 30 until SIGKILL

    def __init__(self, every_n_batches: int = 1, max_restarts: int = 10) -> None:
        if every_n_batches < 1:
            raise ValueError(f"every_n_batches is {every_n_batches}; it must be at least 1")
        self.every_n_batches, self.max_restarts = every_n_batches, max_restarts
        self._told, self._leave_with = 0.0, 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers (after Lightning's own)."""
        if threading.current_thread() is not threading.main_thread():
            return
        if os.environ.get("SEPTET_LAUNCHER") != "slurm":
            signals.noted = 0  # nobody noted for this run before
        for number in (signal.SIGTERM, signals.requeue_signal()):
            self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self._told = self._told if signals.noted else time.monotonic()
        signals.note(number, frame)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if any rank was told to; after an epoch's last batch, its validation comes first."""
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not last and (batch_idx + 1) % self.every_n_batches == 0:
            self._stop_if_told(trainer, pl_module, training=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save between two epochs; leave only after the epoch's metrics are logged."""
        flag = self._agreed_flag(trainer, pl_module)
        if flag:
            self._save(trainer)
            self._leave_with = flag

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave if the last epoch's end saved."""
        if self._leave_with:
            self._leave(trainer, self._leave_with)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation that lasts longer than the scheduler's patience is left; its metrics are then missing."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or (batch_idx + 1) % self.every_n_batches:
            return
        self._stop_if_told(trainer, pl_module, patience=self.patience)

    def _stop_if_told(
        self, trainer: Trainer, pl_module: LightningModule, *, training: bool = False, patience: float = 0.0
    ) -> None:
        flag = self._agreed_flag(trainer, pl_module, patience)
        if flag == 0:
            return
        self._save(trainer)
        if training:  # Lightning logs a step after this hook; the curve must not lose the last one
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            _flush(trainer)
        self._leave(trainer, flag)

    def _agreed_flag(self, trainer: Trainer, pl_module: LightningModule, patience: float = 0.0) -> int:
        """The largest flag of all ranks."""
        flag = signals.noted if time.monotonic() - self._told >= patience else 0
        if trainer.world_size > 1:
            tensor = torch.tensor(flag, device=pl_module.device)
            torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
            flag = int(tensor.item())
        return flag

    def _save(self, trainer: Trainer) -> None:
        _flush(trainer)
        trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "checkpoints", "preempt.ckpt"))

    def _leave(self, trainer: Trainer, flag: int) -> None:
        if flag == 2 and trainer.is_global_zero:
            self._requeue()
        raise Preempted(f"stopped by a signal at step {trainer.global_step}; preempt.ckpt is written")

    def _requeue(self) -> None:
        """Ask the scheduler to run the same job again, within ``max_restarts``."""
        job = os.environ.get("SLURM_JOB_ID")
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if job is None or os.environ.get("SEPTET_REQUEUE") != "1":
            return
        if restarts >= self.max_restarts:
            print(f"not requeued: {restarts} restarts reached max_restarts={self.max_restarts}", flush=True)
            return
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array and task else job], check=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the previous handlers back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        self._previous = {}


def _flush(trainer: Trainer) -> None:
    """Write what loggers hold."""
    for logger in trainer.loggers:
        logger.save()
