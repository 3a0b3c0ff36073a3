"""One (data set, model) per scenario: argmax, or a mixed-integer programme under budget and capacities. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_LARGEST = 100_000
"""Variables above which the programme is solved greedily."""


@dataclass(frozen=True)
class Assignment:
    """Result of :func:`solve`.

    Attributes:
        status: ``optimal``, ``infeasible`` or ``heuristic``.
        choice: (data set, model) per scenario, or None.
        value: sum of utilities, or None.
        blocked: scenarios without any candidate.
    """

    status: str
    choice: list[tuple[int, int]] | None
    value: float | None
    blocked: list[int] = field(default_factory=list)


def _check(utility: Array, allowed: NDArray[np.bool_], cost: Array | None, budget: float | None, capacity: Any) -> None:
    if utility.ndim != 3 or allowed.shape != utility.shape:
        raise ValueError(f"utility {utility.shape} and allowed {allowed.shape} must both be (S, D, M)")
    if np.isnan(utility[allowed]).any():
        raise ValueError("utility is NaN for an allowed candidate; forbid it or give a number")
    if cost is not None and cost.shape != utility.shape:
        raise ValueError(f"cost {cost.shape} must be {utility.shape}")
    if cost is not None and (np.isnan(cost[allowed]).any() or (cost[allowed] < 0).any()):
        raise ValueError("cost is NaN or negative for an allowed candidate")
    if budget is not None and cost is None:
        raise ValueError(f"budget {budget} without cost: give the cost of each candidate")
    if budget is not None and np.isnan(budget):
        raise ValueError("budget is NaN")
    if capacity is not None and (
        np.shape(capacity) != (utility.shape[2],) or np.isnan(np.asarray(capacity, float)).any()
    ):
        raise ValueError(f"capacity must be ({utility.shape[2]},), one per model, got {np.shape(capacity)}")
    if capacity is not None and (np.asarray(capacity, float) < 0).any():
        raise ValueError("capacity is negative")


def solve(
    utility: Any, allowed: Any, *, cost: Any = None, budget: float | None = None, capacity: Any = None
) -> Assignment:
    """Maximise the sum of utilities with one candidate per scenario (specification, section 2).

    Args:
        utility: ``(S, D, M)``, higher is better.
        allowed: ``(S, D, M)`` bool.
        cost: ``(S, D, M)``, not negative.
        budget: bound of the summed cost.
        capacity: ``(M,)``, how many scenarios a model may serve.

    Raises:
        ValueError: shapes, NaN, negative cost, budget without cost.
    """
    u, a = np.asarray(utility, float), np.asarray(allowed, bool)
    c = None if cost is None else np.asarray(cost, float)
    _check(u, a, c, budget, capacity)
    blocked = [s for s in range(u.shape[0]) if not a[s].any()]
    if blocked:
        return Assignment("infeasible", None, None, blocked)
    if budget is None and capacity is None:
        flat = np.where(a, u, -np.inf).reshape(len(u), -1).argmax(1)
        return _result("optimal", u, [(int(i) // u.shape[2], int(i) % u.shape[2]) for i in flat])
    if int(a.sum()) > _LARGEST:
        return _greedy(u, a, c, budget, capacity)
    return _programme(u, a, c, budget, capacity)


def _result(status: str, utility: Array, choice: list[tuple[int, int]]) -> Assignment:
    value = float(sum(utility[s, d, m] for s, (d, m) in enumerate(choice)))
    return Assignment(status, choice, value)


def _programme(u: Array, a: NDArray[np.bool_], c: Array | None, budget: float | None, capacity: Any) -> Assignment:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    s, d, m = np.nonzero(a)
    n = len(s)
    one = csr_array((np.ones(n), (s, np.arange(n))), shape=(u.shape[0], n))
    limits = [LinearConstraint(one, 1, 1)]
    if capacity is not None:
        use = csr_array((np.ones(n), (m, np.arange(n))), shape=(u.shape[2], n))
        limits.append(LinearConstraint(use, -np.inf, np.asarray(capacity, float)))
    if budget is not None and c is not None:
        limits.append(LinearConstraint(csr_array(c[a][None]), -np.inf, budget))
    found = milp(-u[a], integrality=np.ones(n), bounds=Bounds(0, 1), constraints=limits, options={"mip_rel_gap": 0})
    if found.x is None:
        return Assignment("infeasible", None, None)
    picked = np.flatnonzero(found.x > 0.5)
    choice = [(int(d[i]), int(m[i])) for i in picked[np.argsort(s[picked], kind="stable")]]
    return _result("optimal" if found.status == 0 else "heuristic", u, choice)


def _greedy(u: Array, a: NDArray[np.bool_], c: Array | None, budget: float | None, capacity: Any) -> Assignment:
    """Cheapest feasible start, then upgrades by utility per cost; for problems too large for the programme."""
    left = np.full(u.shape[2], np.inf) if capacity is None else np.asarray(capacity, float).copy()
    price = np.zeros_like(u) if c is None else c
    choice: list[tuple[int, int]] = []
    for s in range(len(u)):
        key = np.where(a[s] & (left >= 1), price[s] - 1e-12 * u[s], np.inf)
        if not np.isfinite(key).any():
            return Assignment("infeasible", None, None)
        d, m = np.unravel_index(int(key.argmin()), key.shape)
        choice.append((int(d), int(m)))
        left[m] -= 1
    rest = (np.inf if budget is None else budget) - sum(price[s, d, m] for s, (d, m) in enumerate(choice))
    if rest < 0:
        return Assignment("infeasible", None, None)
    gains = sorted(
        ((float(u[s, d, m] - u[s][choice[s]]) / (float(price[s, d, m] - price[s][choice[s]]) + 1e-9), s, d, m)
         for s, d, m in zip(*np.nonzero(a), strict=True) if u[s, d, m] > u[s][choice[s]]), reverse=True
    )  # fmt: skip
    for _, s, d, m in gains:
        old = choice[s]
        extra = float(price[s, d, m] - price[s][old])
        if u[s, d, m] > u[s][old] and extra <= rest and (left[m] >= 1 or m == old[1]):
            left[old[1]] += 1
            left[m] -= 1
            rest -= extra
            choice[s] = (int(d), int(m))
    return _result("heuristic", u, choice)
