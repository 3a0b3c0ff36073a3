"""Learning-rate factor of mmengine's linear warm-up times multi-step decay."""

from collections.abc import Sequence


def warmup_multistep(
    iteration: int,
    *,
    steps_per_epoch: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_iters: int = 500,
    warmup_factor: float = 1e-3,
) -> float:
    """Learning rate over base rate at an iteration (0-based).

    The warm-up reaches 1 at iteration ``warmup_iters - 1``, as in mmengine; milestones apply inside it too.

    Args:
        iteration: optimiser steps done so far.
        steps_per_epoch: optimiser steps in an epoch.
        milestones: epochs after which the rate is multiplied by ``gamma``.
        gamma: decay of each milestone.
        warmup_iters: length of the warm-up in iterations; 0 or 1 for none.
        warmup_factor: factor at iteration 0.

    Raises:
        ValueError: if ``steps_per_epoch`` is below 1 or ``iteration`` is negative.

    Example:
        >>> warmup_multistep(499, steps_per_epoch=100, milestones=[8, 11])
        1.0
    """
    if steps_per_epoch < 1 or iteration < 0:
        raise ValueError(f"need steps_per_epoch >= 1 and iteration >= 0, got {steps_per_epoch} and {iteration}")
    warm = 1.0
    if iteration < warmup_iters - 1:
        warm = warmup_factor + (1 - warmup_factor) * iteration / (warmup_iters - 1)
    passed = sum(iteration >= epoch * steps_per_epoch for epoch in milestones)
    return float(warm * gamma**passed)
