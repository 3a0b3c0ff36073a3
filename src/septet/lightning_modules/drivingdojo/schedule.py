"""AdamW under one cycle, counted without touching the loaders."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn


class OneCycle(torch.optim.lr_scheduler.OneCycleLR):
    """One cycle over the steps of this run: a resumed run keeps its place, not the length of the earlier plan.

    Steps beyond the plan keep the last rate.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the place from a checkpoint and the plan from this run's settings."""
        plan = {name: getattr(self, name) for name in ("total_steps", "_schedule_phases")}
        if (before := state_dict.get("total_steps")) != self.total_steps:
            rank_zero_info(f"learning rate: one cycle of {before} steps in the checkpoint, {self.total_steps} now")
        super().load_state_dict(state_dict | plan)

    def get_lr(self) -> list[Any]:
        """Rates of this step."""
        place, self.last_epoch = self.last_epoch, min(self.last_epoch, int(self.total_steps) - 1)
        try:
            return list(super().get_lr())
        finally:
            self.last_epoch = place


def one_cycle(
    parameters: Iterable[nn.Parameter],
    lr: float,
    trainer: Any,
    betas: tuple[float, float] = (0.9, 0.99),
    warmup: float = 0.1,
) -> dict[str, Any]:
    """Optimiser and step-wise schedule over the whole run, as Lightning takes them."""
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01, betas=betas)
    schedule = OneCycle(
        optimizer, lr, total_steps=max(2, planned_steps(trainer)), pct_start=warmup, cycle_momentum=False
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def planned_steps(trainer: Any) -> int:
    """Optimiser steps of the run.

    ``trainer.estimated_stepping_batches`` sets the loaders up before a checkpoint is restored: their place in the
    epoch would be lost on resume. It serves only where there is no data module to count.

    Raises:
        ValueError: for a run without an end, which has no cycle.
    """
    if trainer.max_steps <= 0 and (trainer.max_epochs is None or trainer.max_epochs < 0):
        given = f"max_epochs={trainer.max_epochs} and max_steps={trainer.max_steps}"
        raise ValueError(
            f"{given}: the learning rate goes through one cycle and needs its length; give trainer.max_epochs or "
            "trainer.max_steps (trainer.max_time may end the run earlier)"
        )
    if trainer.max_steps > 0 and (trainer.max_epochs is None or trainer.max_epochs <= 0):
        return int(trainer.max_steps)
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "part"):
        return int(trainer.estimated_stepping_batches)
    batches = math.ceil(math.ceil(len(data.part("train")) / data.batch_size) / trainer.world_size)
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    total = max(1, math.ceil(batches / trainer.accumulate_grad_batches)) * max(1, trainer.max_epochs or 1)
    result: int = min(total, trainer.max_steps) if trainer.max_steps > 0 else total
    return result
