"""AdamW under one cycle, counted without touching the loaders."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=max(2, planned_steps(trainer)), pct_start=warmup, cycle_momentum=False
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def planned_steps(trainer: Any) -> int:
    """Optimiser steps of the run.

    ``trainer.estimated_stepping_batches`` sets the loaders up before a checkpoint is restored: their place in the
    epoch would be lost on resume. It serves only where there is no data module to count.
    """
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
