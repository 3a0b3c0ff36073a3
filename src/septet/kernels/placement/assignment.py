"""Whole heads to devices: exact branch and bound, and longest-first with moves and swaps."""

from __future__ import annotations

from typing import Any

from septet.kernels.placement.plan import as_loads

EXACT_UP_TO = 12


def assign(loads: Any, n_devices: int, *, method: str = "auto", cardinality: str = "free") -> list[int]:
    """Device of each head with the smallest possible load of the fullest device.

    Args:
        loads: ``(H,)`` in any unit.
        n_devices: number of devices G.
        method: "exact" (branch and bound), "lpt" (longest first, moves, swaps) or "auto" (exact up to 12 heads).
        cardinality: "free", or "equal" for H / G heads on each device.

    Raises:
        ValueError: for wrong loads or names, or "equal" where H does not divide.
    """
    weights = as_loads(loads, rank=1).tolist()
    if n_devices < 1:
        raise ValueError(f"n_devices is {n_devices}; it must be at least 1")
    if method not in ("auto", "exact", "lpt"):
        raise ValueError(f"method {method!r}: use 'auto', 'exact' or 'lpt'")
    if cardinality not in ("free", "equal"):
        raise ValueError(f"cardinality {cardinality!r}: use 'free' or 'equal'")
    if cardinality == "equal" and len(weights) % n_devices:
        raise ValueError(f"cardinality 'equal': {len(weights)} heads do not divide over {n_devices} devices")
    capacity = len(weights) // n_devices if cardinality == "equal" else len(weights)
    start = longest_first(weights, n_devices, capacity)
    if method == "lpt" or (method == "auto" and len(weights) > EXACT_UP_TO):
        return start
    return branch_and_bound(weights, n_devices, capacity, start)


def makespan(weights: list[float], devices: list[int], n_devices: int) -> float:
    """Load of the fullest device."""
    return max(device_loads(weights, devices, n_devices))


def device_loads(weights: list[float], devices: list[int], n_devices: int) -> list[float]:
    """Load of each device."""
    out = [0.0] * n_devices
    for weight, device in zip(weights, devices, strict=True):
        out[device] += weight
    return out


def longest_first(weights: list[float], n_devices: int, capacity: int) -> list[int]:
    """Longest head to the emptiest device, then moves and swaps off the fullest device while they help."""
    loads, counts = [0.0] * n_devices, [0] * n_devices
    devices = [0] * len(weights)
    for head in sorted(range(len(weights)), key=lambda h: -weights[h]):
        device = min((d for d in range(n_devices) if counts[d] < capacity), key=lambda d: loads[d])
        devices[head] = device
        loads[device] += weights[head]
        counts[device] += 1
    while _improve(weights, devices, loads, counts, capacity):
        pass
    return devices


def _improve(weights: list[float], devices: list[int], loads: list[float], counts: list[int], capacity: int) -> bool:
    """One move or swap that lowers the fullest device without making a new fullest; False if there is none."""
    full = max(range(len(loads)), key=lambda d: loads[d])
    best: tuple[float, int, int, int | None] | None = None
    for head in [h for h, d in enumerate(devices) if d == full]:
        for device in range(len(loads)):
            if device == full:
                continue
            partners: list[int | None] = [
                h for h, d in enumerate(devices) if d == device and weights[h] < weights[head]
            ]
            if counts[device] < capacity:
                partners.append(None)
            for partner in partners:
                gain = weights[head] - (weights[partner] if partner is not None else 0.0)
                peak = max(loads[full] - gain, loads[device] + gain)
                if peak < loads[full] * (1 - 1e-12) and (best is None or peak < best[0]):
                    best = (peak, head, device, partner)
    if best is None:
        return False
    _, head, device, partner = best
    _move(weights, devices, loads, counts, head, device)
    if partner is not None:
        _move(weights, devices, loads, counts, partner, full)
    return True


def _move(
    weights: list[float], devices: list[int], loads: list[float], counts: list[int], head: int, device: int
) -> None:
    loads[devices[head]] -= weights[head]
    counts[devices[head]] -= 1
    loads[device] += weights[head]
    counts[device] += 1
    devices[head] = device


def branch_and_bound(weights: list[float], n_devices: int, capacity: int, start: list[int]) -> list[int]:
    """Exact search over heads in falling order, from the incumbent ``start``.

    Devices with equal (load, count) are interchangeable, so only one of them is tried; the search stops at the bound
    max(largest head, mean load).
    """
    order = sorted(range(len(weights)), key=lambda h: -weights[h])
    ordered = [weights[h] for h in order]
    bound = max(ordered[0], sum(ordered) / n_devices)
    best, best_span = list(start), makespan(weights, start, n_devices)
    loads, counts, chosen = [0.0] * n_devices, [0] * n_devices, [0] * len(weights)

    def descend(position: int) -> None:
        nonlocal best, best_span
        if best_span <= bound * (1 + 1e-12):
            return
        if position == len(ordered):
            best_span = max(loads)
            for rank, head in enumerate(order):
                best[head] = chosen[rank]
            return
        seen = set()
        for device in sorted(range(n_devices), key=lambda d: loads[d]):
            state = (loads[device], counts[device])
            if state in seen or counts[device] >= capacity:
                continue
            seen.add(state)
            if loads[device] + ordered[position] >= best_span * (1 - 1e-12):
                continue
            loads[device] += ordered[position]
            counts[device] += 1
            chosen[position] = device
            descend(position + 1)
            loads[device], counts[device] = state

    descend(0)
    return best
