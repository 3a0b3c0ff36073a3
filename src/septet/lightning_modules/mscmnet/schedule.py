"""Linear warm-up, then steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


def warmup_multistep(
    epoch: int,
    *,
    warmup_epochs: int = 10,
    warmup_factor: float = 0.1,
    milestones: Sequence[int] = (25, 90, 120),
    gamma: float = 0.1,
) -> float:
    """Factor of the learning rate; the warm-up wins over milestones.

    Args:
        epoch: 0-based epoch (or step).
        warmup_epochs: length of the linear rise.
        warmup_factor: factor at epoch 0.
        milestones: where the factor is multiplied by ``gamma``.
        gamma: of each step.

    >>> [round(warmup_multistep(e), 4) for e in (0, 5, 10, 24, 25, 90, 120)]
    [0.1, 0.55, 1.0, 1.0, 0.1, 0.01, 0.001]
    """
    if epoch < warmup_epochs:
        return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
    return float(gamma ** sum(epoch >= m for m in milestones))


def check_schedule(settings: Mapping[str, Any]) -> None:
    """Refuse arguments that :func:`warmup_multistep` cannot use.

    Raises:
        ValueError: unknown keys, a negative warm-up, a factor below 0, milestones that are negative or do not rise.
    """
    known = ("warmup_epochs", "warmup_factor", "milestones", "gamma")
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"unknown schedule.{unknown[0]}: choose from {', '.join(known)}")
    for name in ("warmup_epochs", "warmup_factor", "gamma"):
        value = settings.get(name, 0)
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"schedule.{name}={value}: give a finite number of at least 0")
    steps = settings.get("milestones", ())
    fine = isinstance(steps, list | tuple) and all(isinstance(m, int) and m >= 0 for m in steps)
    if not fine or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"schedule.milestones={steps}: give a list of whole numbers that rise, such as [25, 90]")
