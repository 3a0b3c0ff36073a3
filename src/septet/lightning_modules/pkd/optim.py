"""Optimiser groups of mmengine's ``paramwise_cfg`` and the two schedules."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from septet.lightning_modules.pkd.schedule import warmup_multistep

SCHEDULES = ("multistep", "onecycle", "constant")


def parameter_groups(
    model: nn.Module, optimizer: Mapping[str, Any], paramwise: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Groups as mmengine's DefaultOptimWrapperConstructor makes them.

    Args:
        model: the student.
        optimizer: ``{type: SGD, lr: 0.01, ...}``.
        paramwise: norm_decay_mult, bias_lr_mult, bias_decay_mult, dwconv_decay_mult, custom_keys (longest match wins).
    """
    if not paramwise:
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
    from mmengine.optim import DefaultOptimWrapperConstructor

    config = {"type": "OptimWrapper", "optimizer": dict(optimizer)}
    wrapper = DefaultOptimWrapperConstructor(config, dict(paramwise))(model)
    kept = ("params", "lr", "weight_decay")
    return [{key: group[key] for key in kept if key in group} for group in wrapper.optimizer.param_groups]


def build_optimizer(
    model: nn.Module,
    extra: Iterable[nn.Parameter],
    optimizer: Mapping[str, Any],
    paramwise: Mapping[str, Any] | None,
    scale: float = 1.0,
) -> Optimizer:
    """A torch optimiser over the student's groups and one group of learned loss parts.

    Args:
        model: the student.
        extra: parameters of adapters and learned losses.
        optimizer: ``type`` names a class of ``torch.optim``; the rest are its arguments.
        paramwise: see :func:`parameter_groups`.
        scale: multiplies every learning rate (linear scaling with the batch).

    Raises:
        ValueError: no such optimiser.
    """
    options = dict(optimizer)
    name = str(options.pop("type", "SGD"))
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"torch.optim has no optimiser {name!r}; use e.g. SGD or AdamW")
    groups = parameter_groups(model, optimizer, paramwise)
    learned = list(extra)
    if learned:
        groups.append({"params": learned})
    for group in groups:
        if "lr" in group:
            group["lr"] = group["lr"] * scale
    options["lr"] = options["lr"] * scale
    return kind(groups, **options)


def optimiser_steps(trainer: Any, batches: int) -> tuple[int, int]:
    """Optimiser steps of the whole run and of one epoch.

    ``trainer.estimated_stepping_batches`` is avoided: it sets the loaders up before a checkpoint is restored, and
    their position in the epoch is then lost.

    Args:
        trainer: Lightning's.
        batches: of one epoch on this process.
    """
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    total = per_epoch * trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else trainer.max_steps
    return (min(total, trainer.max_steps) if trainer.max_steps > 0 else total), per_epoch


def build_schedule(optimizer: Optimizer, options: Mapping[str, Any], total: int, per_epoch: int) -> LRScheduler:
    """A schedule that steps after every optimiser step.

    Args:
        optimizer: whose rates are scheduled.
        options: ``type`` multistep (milestones, gamma, warmup_iters, warmup_factor), onecycle (pct_start) or constant.
        total: optimiser steps of the whole run.
        per_epoch: optimiser steps of an epoch.

    Raises:
        ValueError: unknown type.
    """
    rest = dict(options)
    kind = rest.pop("type", "multistep")
    if kind not in SCHEDULES:
        raise ValueError(f"unknown schedule {kind!r}; choose from {', '.join(SCHEDULES)}")
    if kind == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=max(total, 2), **rest)
    if kind == "constant":
        return LambdaLR(optimizer, lambda iteration: 1.0)
    milestones: Sequence[int] = rest.pop("milestones", (8, 11))
    return LambdaLR(optimizer, lambda i: warmup_multistep(i, steps_per_epoch=per_epoch, milestones=milestones, **rest))
