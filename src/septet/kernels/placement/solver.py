"""Head plans from loads: best-effort assignment, Fair-Copying, and levelled memory."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

from septet.kernels.placement.assignment import assign, makespan
from septet.kernels.placement.copying import Pieces, as_replicas, best_cuts, copy_bound, piece_loads
from septet.kernels.placement.plan import HeadPlan, Layer, _check_counts, as_loads


def solve(
    head_loads: Any,
    n_devices: int,
    *,
    batch_size: int = 1,
    copies: int = 0,
    method: str = "auto",
    cardinality: str = "free",
    weight_cost: float = 0.0,
) -> HeadPlan:
    """Plan with the smallest sum of per-layer makespans that was found.

    Args:
        head_loads: ``(L, H)`` loads of the whole batch.
        n_devices: G.
        batch_size: rows B; copies share them.
        copies: most extra replicas per layer; fewer are used where more do not pay for their weights.
        method: of the assignment, see :func:`assign`.
        cardinality: binds only the assignment without copies.
        weight_cost: bytes of one head's weights, in the unit of the loads; paid by every replica.

    Raises:
        ValueError: for wrong loads, counts or names.
    """
    loads = as_loads(head_loads, rank=2)
    _check_counts(n_devices, batch_size)
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 0:
        raise ValueError(f"copies is {copies!r}; it must be a whole number, not negative")
    if not 0 <= weight_cost < float("inf"):
        raise ValueError(f"weight_cost is {weight_cost}; it must be finite and not negative")
    if copies > 0 and batch_size == 1:
        warnings.warn(
            "copies share batch rows, and a batch of 1 has nothing to share: planned without copies", stacklevel=2
        )
        copies = 0
    if n_devices > loads.shape[1] and copies == 0:
        idle = n_devices - loads.shape[1]
        warnings.warn(f"{n_devices} devices for {loads.shape[1]} KV heads: {idle} idle without copies", stacklevel=2)
    copies = min(copies, loads.shape[1] * (min(n_devices, batch_size) - 1))  # no head has more replicas than this
    totals = [0.0] * n_devices
    layers: list[Layer] = []
    for row in loads.tolist():
        pieces = solve_layer(row, n_devices, batch_size, copies, method, cardinality, weight_cost)
        pieces = _level(row, n_devices, batch_size, weight_cost, pieces, totals)
        layers.append(tuple(as_replicas(parts) for parts in pieces))
    digest = hashlib.sha256(loads.numpy().tobytes()).hexdigest()
    meta = {"copies": copies, "weight_cost": weight_cost, "solver": method, "loads_sha256": digest}
    plan = HeadPlan(n_devices, batch_size, tuple(layers), meta)
    meta["utilisation"] = plan.utilisation(loads, weight_cost)
    return plan


def solve_layer(
    loads: list[float],
    n_devices: int,
    batch_size: int,
    copies: int,
    method: str = "auto",
    cardinality: str = "free",
    weight_cost: float = 0.0,
) -> Pieces:
    """Rows per device of each head of one layer."""
    paid = [w + weight_cost for w in loads]
    devices = assign(paid, n_devices, method=method, cardinality=cardinality)
    best: Pieces = [[(d, batch_size)] for d in devices]
    span = makespan(paid, devices, n_devices)
    if cardinality == "free" and len(loads) % n_devices == 0:
        block = len(loads) // n_devices
        plain = [h // block for h in range(len(loads))]
        if makespan(paid, plain, n_devices) < span:
            span, best = makespan(paid, plain, n_devices), [[(d, batch_size)] for d in plain]
    mean = sum(paid) / n_devices
    for extra in _allowances(copies):
        if span <= mean * (1 + 1e-3):  # nothing left to gain
            break
        found = best_cuts(loads, n_devices, batch_size, extra, weight_cost, span)
        if found is not None:
            span, best = found
    return best


def _allowances(copies: int) -> list[int]:
    """Copy counts to try: every one up to 8, then by steps of a quarter, and the limit itself."""
    counts = list(range(1, min(copies, 8) + 1))
    while counts and counts[-1] < copies:
        counts.append(min(copies, counts[-1] * 5 // 4 + 1))
    return counts


def _level(
    loads: list[float], n_devices: int, batch_size: int, cost: float, pieces: Pieces, totals: list[float]
) -> Pieces:
    """Rename the devices of a layer so that memory over all layers stays level (labels cost no time)."""
    mine = piece_loads(loads, n_devices, batch_size, cost, pieces)
    heavy = sorted(range(n_devices), key=lambda d: -mine[d])
    light = sorted(range(n_devices), key=lambda d: totals[d])
    rename = dict(zip(heavy, light, strict=True))
    for old, new in rename.items():
        totals[new] += mine[old]
    return [[(rename[d], rows) for d, rows in parts] for parts in pieces]


def lower_bound(loads: Any, n_devices: int, *, batch_size: int = 1, copies: int = 0) -> float:
    """No plan's makespan is smaller: max(mean load, smallest target whose necessary cuts are at most ``copies``).

    Args:
        loads: ``(H,)`` of one layer.
        n_devices: G.
        batch_size: B.
        copies: most extra replicas.
    """
    weights = as_loads(loads, rank=1).tolist()
    _check_counts(n_devices, batch_size)
    if copies < 0:
        raise ValueError(f"copies is {copies}; it must not be negative")
    return copy_bound(weights, n_devices, batch_size, copies)
