"""Fair-Copying by a target makespan: which heads are cut into batch rows, and how (after FairKV, section on copies)."""

from __future__ import annotations

from septet.kernels.placement.plan import Replica

Pieces = list[list[tuple[int, int]]]  # per head: (device, rows)


def minimal_copies(weights: list[float], batch_size: int, target: float) -> int:
    """Fewest extra replicas with which no piece exceeds ``target`` (weights counted nowhere)."""
    total = 0
    for weight in weights:
        rows = batch_size if weight <= 0 else int(batch_size * target / weight * (1 + 1e-12))
        if rows < 1:
            return batch_size * len(weights)
        total += -(-batch_size // min(rows, batch_size)) - 1
    return total


def copy_bound(weights: list[float], n_devices: int, batch_size: int, copies: int) -> float:
    """max(mean load, smallest T whose necessary cuts are at most ``copies``)."""
    mean = sum(weights) / n_devices
    most = min(n_devices, batch_size)
    candidates = sorted({w * m / batch_size for w in weights for m in range(1, batch_size + 1) if w > 0} | {mean})
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if minimal_copies(weights, batch_size, candidates[middle]) <= copies and _pieces_fit(
            weights, batch_size, candidates[middle], most
        ):
            high = middle
        else:
            low = middle + 1
    return max(mean, candidates[low])


def _pieces_fit(weights: list[float], batch_size: int, target: float, most: int) -> bool:
    """No head needs more replicas than there are devices."""
    for weight in weights:
        rows = batch_size if weight <= 0 else int(batch_size * target / weight * (1 + 1e-12))
        if rows < 1 or -(-batch_size // min(rows, batch_size)) > most:
            return False
    return True


def cut_to_target(
    weights: list[float], n_devices: int, batch_size: int, copies: int, cost: float, target: float, variant: int
) -> Pieces | None:
    """Place all heads below ``target`` with at most ``copies`` cuts, or None.

    Args:
        weights: ``(H,)`` loads of the whole batch.
        n_devices: G.
        batch_size: B rows.
        copies: most extra replicas.
        cost: weight cost of one replica.
        target: no device may exceed it.
        variant: 0 whole heads to the fullest device where they fit, cuts over the devices with most room; 1 heads
            that must be cut go first; 2 wrap-around: devices are filled one after the other; 3 as 0, but a cut
            starts by filling the fullest device that takes at least one row.
    """
    slack = target * (1 + 1e-12)
    room = [slack] * n_devices
    pieces: Pieces = [[] for _ in weights]
    left = copies
    order = sorted(range(len(weights)), key=lambda h: -weights[h])
    if variant == 1:
        order.sort(key=lambda h: weights[h] + cost <= slack)
    for head in order:
        whole = weights[head] + cost
        fits = [d for d in range(n_devices) if room[d] >= whole]
        if fits and variant != 2:
            device = min(fits, key=lambda d: room[d])
            pieces[head].append((device, batch_size))
            room[device] -= whole
            continue
        used = _cut(weights[head], batch_size, cost, room, pieces[head], variant)
        if used is None or used > left:
            return None
        left -= used
    return pieces


def _cut(
    weight: float, batch_size: int, cost: float, room: list[float], out: list[tuple[int, int]], variant: int
) -> int | None:
    """Spread one head's rows over devices; returns the extra replicas, or None if the rows do not fit."""
    rest = batch_size
    per_row = weight / batch_size

    def capacity(device: int) -> int:
        free = room[device] - cost
        return rest if per_row <= 0 and free >= 0 else (int(free / per_row) if per_row > 0 and free > 0 else 0)

    taken: set[int] = set()
    while rest > 0:
        able = [d for d in range(len(room)) if d not in taken and capacity(d) >= 1]
        if not able:
            return None
        finishing = [d for d in able if capacity(d) >= rest]
        if finishing:
            device = min(finishing, key=lambda d: room[d])
        elif variant in (2, 3) and not taken:
            device = min(able, key=lambda d: room[d])
        else:
            device = max(able, key=lambda d: room[d])
        rows = min(rest, capacity(device))
        out.append((device, rows))
        taken.add(device)
        room[device] -= per_row * rows + cost
        rest -= rows
    return len(out) - 1


def best_cuts(
    weights: list[float], n_devices: int, batch_size: int, copies: int, cost: float, incumbent: float
) -> tuple[float, Pieces] | None:
    """Smallest makespan found with exactly the allowance ``copies``, below ``incumbent``; None if there is none."""
    bound = copy_bound([w + cost for w in weights], n_devices, batch_size, copies) if cost == 0 else 0.0
    low = max(bound, (sum(weights) + cost * len(weights)) / n_devices)
    best: tuple[float, Pieces] | None = None
    high = incumbent
    for target in _targets(low, high):
        if best is not None and target >= best[0]:
            continue
        for variant in range(4):
            pieces = cut_to_target(weights, n_devices, batch_size, copies, cost, target, variant)
            if pieces is None:
                continue
            level_rows(weights, n_devices, batch_size, cost, pieces)
            span = max(piece_loads(weights, n_devices, batch_size, cost, pieces))
            if span < (best[0] if best else incumbent) * (1 - 1e-12):
                best = (span, pieces)
    return best


def _targets(low: float, high: float) -> list[float]:
    """Candidate makespans, dense near the bound, from small to large."""
    if high <= low:
        return [low]
    span = high - low
    return [low + span * (i / 48) ** 2 for i in range(48)]


def piece_loads(weights: list[float], n_devices: int, batch_size: int, cost: float, pieces: Pieces) -> list[float]:
    """Load of each device."""
    loads = [0.0] * n_devices
    for weight, head in zip(weights, pieces, strict=True):
        for device, rows in head:
            loads[device] += weight * rows / batch_size + cost
    return loads


def level_rows(weights: list[float], n_devices: int, batch_size: int, cost: float, pieces: Pieces) -> None:
    """Shift rows between replicas of a head, and move whole pieces, off the fullest device while it helps."""
    loads = piece_loads(weights, n_devices, batch_size, cost, pieces)
    for _ in range(16 * n_devices):
        full = max(range(n_devices), key=lambda d: loads[d])
        step = _best_shift(weights, batch_size, cost, pieces, loads, full)
        if step is None:
            return
        head, source, target, rows = step
        amount = weights[head] * rows / batch_size
        counts = dict(pieces[head])
        emptied = counts[source] == rows
        fresh = target not in counts
        counts[source] -= rows
        counts[target] = counts.get(target, 0) + rows
        pieces[head] = [(d, r) for d, r in counts.items() if r > 0]
        loads[source] -= amount + (cost if emptied else 0.0)
        loads[target] += amount + (cost if fresh else 0.0)


def _best_shift(
    weights: list[float], batch_size: int, cost: float, pieces: Pieces, loads: list[float], full: int
) -> tuple[int, int, int, int] | None:
    """(head, from, to, rows) with the lowest peak of the two devices; the number of replicas never grows."""
    best: tuple[float, tuple[int, int, int, int]] | None = None
    for head, parts in enumerate(pieces):
        counts = dict(parts)
        if full not in counts:
            continue
        for target in range(len(loads)):
            if target == full:
                continue
            rows = counts[full]
            if target in counts and rows > 1 and weights[head] > 0:  # half the difference, at least one row
                half = (loads[full] - loads[target]) * batch_size / (2 * weights[head])
                rows = max(1, min(rows - 1, int(half)))
            amount = weights[head] * rows / batch_size
            down = loads[full] - amount - (cost if rows == counts[full] else 0.0)
            up = loads[target] + amount + (0.0 if target in counts else cost)
            peak = max(down, up)
            if peak < loads[full] * (1 - 1e-12) and (best is None or peak < best[0]):
                best = (peak, (head, full, target, rows))
    return best[1] if best else None


def as_replicas(parts: list[tuple[int, int]]) -> tuple[Replica, ...]:
    """Row counts as consecutive ranges."""
    replicas, at = [], 0
    for device, rows in sorted(parts, key=lambda p: (-p[1], p[0])):
        replicas.append(Replica(device, at, at + rows))
        at += rows
    return tuple(replicas)
