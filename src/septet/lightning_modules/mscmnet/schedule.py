"""Linear warm-up, then steps."""

from __future__ import annotations

from collections.abc import Sequence


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
