"""Budgets of layers and heads: integer rounding of shares (CAKE section 4.3, PyramidKV, HeadKV, AdaKV)."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROUNDINGS = ("divisor", "official")


def _spread(budgets: list[int], amount: int, indices: list[int]) -> None:
    """Add ``amount`` evenly to the entries at ``indices``, the remainder one by one to the lowest."""
    if not indices:
        return
    each, rest = divmod(amount, len(indices))
    for rank, index in enumerate(indices):
        budgets[index] += each + (rank < rest)


def round_official(shares: Sequence[float] | Tensor, total: int, cap: int) -> list[int]:
    """Round real shares as the official CAKE code does, its defects included (for comparison only).

    Truncate, cap, spread what was cut off evenly over the layers below the cap, then the missing total likewise;
    there is no second clamp, so an entry may exceed the cap.

    Args:
        shares: real-valued budget of each layer.
        total: tokens to hand out.
        cap: most tokens that a layer can hold.

    Returns:
        Integer budgets.
    """
    budgets = [int(share) for share in shares]
    excess = sum(max(0, budget - cap) for budget in budgets)
    budgets = [min(budget, cap) for budget in budgets]
    _spread(budgets, excess, [i for i, budget in enumerate(budgets) if budget < cap])
    missing = total - sum(budgets)
    if missing > 0:
        _spread(budgets, missing, [i for i, budget in enumerate(budgets) if budget < cap])
    elif missing < 0:
        above = [i for i, budget in enumerate(budgets) if budget > 1]
        each, rest = divmod(-missing, len(above)) if above else (0, 0)
        for rank, index in enumerate(above):
            budgets[index] -= each + (rank < rest)
    return budgets


def official_shares(preference: Sequence[float] | np.ndarray, total: int) -> list[float]:
    """Shares ``P / sum(P) * total`` in float32 arithmetic, as the official code computes them with numpy 2."""
    value = np.asarray(preference, dtype=np.float32)
    return [float(share) for share in value / np.sum(value) * np.float32(total)]


def _as_preferences(preference: Sequence[float] | Tensor) -> np.ndarray:
    value = torch.as_tensor(preference, dtype=torch.float64).detach().cpu().numpy()
    if value.ndim != 1 or value.size == 0:
        raise ValueError(f"preference has shape {value.shape}; give one number per layer, at least one layer")
    if not np.isfinite(value).all() or (value < 0).any():
        raise ValueError(f"preference {value.tolist()} holds a negative, NaN or infinite number; all must be >= 0")
    return value


def allocate(preference: Sequence[float] | Tensor, total: int, cap: int, *, rounding: str = "divisor") -> list[int]:
    """Integer budgets of the layers seen so far (CAKE, section 4.3).

    "divisor" hands out seats to the largest ``P / (n + 1)`` below the cap, ties to the lower layer (capped D'Hondt):
    it sums to ``min(total, layers * cap)`` and never raises an earlier layer when one is added, so a cascade equals
    one trim.

    Args:
        preference: one number >= 0 per layer.
        total: tokens to hand out.
        cap: most tokens of a layer.
        rounding: "divisor" or "official".

    Returns:
        Budget of each layer.

    Raises:
        ValueError: no layer, a negative or NaN preference, a negative total or cap, an unknown rounding.
    """
    value = _as_preferences(preference)
    if total < 0 or cap < 0:
        raise ValueError(f"total = {total} and cap = {cap} must not be negative")
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}; choose one of {', '.join(ROUNDINGS)}")
    if rounding == "official" and value.sum() > 0:
        return round_official(official_shares(value, total), total, cap)
    return _divisor(value, min(total, cap * value.size), cap)


def _divisor(value: np.ndarray, total: int, cap: int) -> list[int]:
    """Capped D'Hondt; layers without preference share evenly what the others cannot hold."""
    positive = np.flatnonzero(value > 0)
    budgets = [0] * value.size
    granted = min(total, cap * positive.size)
    for index, seats in zip(positive, _seats(value[positive], granted, cap), strict=True):
        budgets[index] = seats
    _spread(budgets, total - granted, [int(i) for i in np.flatnonzero(value <= 0)])
    return budgets


def _seats(value: np.ndarray, total: int, cap: int) -> list[int]:
    """Seat-by-seat result without the seats: a safe lower bound by bisection, the last ones through a heap."""
    if total == 0 or value.size == 0:
        return [0] * value.size
    seats = _lower_bound(value, total, cap)
    heap = [(-value[i] / (n + 1), i) for i, n in enumerate(seats) if n < cap]
    heapq.heapify(heap)
    for _ in range(total - sum(seats)):
        _, index = heapq.heappop(heap)
        seats[index] += 1
        if seats[index] < cap:
            heapq.heappush(heap, (-value[index] / (seats[index] + 1), index))
    return seats


def _lower_bound(value: np.ndarray, total: int, cap: int) -> list[int]:
    """Seats that every layer surely gets: ``min(cap, floor(P / lambda)) - 1`` for the lambda that fills the total."""
    scaled = np.log(value)
    low, high = float(scaled.min()) - math.log(total + 1) - 1, float(scaled.max()) + 1
    for _ in range(64):
        middle = (low + high) / 2
        if np.minimum(np.floor(np.exp(np.minimum(scaled - middle, 700.0))), cap).sum() <= total:
            high = middle
        else:
            low = middle
    count = np.minimum(np.floor(np.exp(np.minimum(scaled - high, 700.0))), cap)
    return [max(0, int(n) - 1) for n in count]


def pyramid_budget(layer: int, n_layers: int, length: int, budget: int, window: int, beta: int = 20) -> int:
    """History budget of a layer in PyramidKV (arXiv 2406.02069): falls linearly from the first to the last layer."""
    history = length - window
    if n_layers == 1 or length < 2 * budget:
        return budget
    low = budget // beta
    high = 2 * budget - low
    if high >= history:
        high, low = history, 2 * budget - history
    return high - layer * ((high - low) // (n_layers - 1))


def adakv_budgets(score: Tensor, budget: int, floor: float = 0.2) -> list[int]:
    """Budget per head from the layer's joint ranking (AdaKV, arXiv 2407.11550, algorithm 1).

    Args:
        score: pooled scores ``(H_kv, N)``.
        budget: history tokens per head on average.
        floor: share of the budget that is handed out evenly.

    Returns:
        History tokens of each head; rounding may move the sum by up to ``H_kv / 2``.
    """
    n_heads, history = score.shape
    top = torch.sort(score.flatten(), descending=True, stable=True).indices[: n_heads * budget]
    counts = torch.bincount(top // history, minlength=n_heads).tolist()
    fixed = int(budget * floor)
    return [min(history, round(count * (1 - floor) + fixed)) for count in counts]


def headkv_table(
    scores: Sequence[Sequence[float]] | np.ndarray | Tensor,
    n_kv_heads: int,
    capacity: int,
    window: int = 8,
    beta: float = 1.2,
) -> Tensor:
    """Static history budgets from retrieval scores of the query heads (HeadKV, arXiv 2410.19258).

    Args:
        scores: ``(L, H_q)`` >= 0.
        n_kv_heads: KV heads; the budget of a KV head is the rounded mean of its group.
        capacity: tokens per head including the window.
        window: tokens always kept.
        beta: the share ``1 / beta`` of the budget goes to the common pool.

    Returns:
        ``(L, H_kv)`` int64.

    Raises:
        ValueError: scores that are not ``(L, H_q)``, negative or all zero, heads that do not divide, capacity <=
            window.
    """
    value = torch.as_tensor(scores, dtype=torch.float64)
    if value.ndim != 2 or (value < 0).any() or not value.sum() > 0:
        raise ValueError(f"scores of shape {tuple(value.shape)} must be (layers, query heads), >= 0 and not all zero")
    if n_kv_heads < 1 or value.shape[1] % n_kv_heads:
        raise ValueError(f"{value.shape[1]} query heads do not divide over {n_kv_heads} KV heads; use a divisor")
    if capacity <= window:
        raise ValueError(f"capacity {capacity} must exceed the window {window}; raise capacity")
    budget = capacity - window
    shared = int(budget // beta)
    per_head = torch.round(value / value.sum() * (shared * value.numel()) + (budget - shared))
    grouped = per_head.view(value.shape[0], n_kv_heads, -1).mean(-1)
    return torch.round(grouped).long()
