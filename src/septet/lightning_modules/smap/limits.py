"""Known cost of a candidate, the limit it breaks, and how sure it is to keep the latency limit. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0")
QUANTITIES = {"max_latency_ms": "latency", "max_params": "params", "max_memory_gb": "memory"}
_Z95 = 1.6448536269514722
_FEWEST = 4
"""Residuals below which the run's own p50 and p95 are used instead."""


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _own(entries: Sequence[Mapping[str, Any]], device: str) -> list[Mapping[str, Any]]:
    """Criteria of the rows measured on a device whose name contains the text."""
    rows = [row.get("criteria") or {} for e in entries for row in e["rows"]]
    return [c for c in rows if device.casefold() in str(c.get("device") or "").casefold()]


def _latency(criteria: Mapping[str, Any]) -> float | None:
    """95th percentile, else the median."""
    high = criteria.get("latency_ms_p95")
    found = criteria.get("latency_ms_p50") if high is None else high
    return None if found is None else float(found)


def quantities(entries: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Median latency (p95, else p50), parameters, memory in GB, licence, stars and training seconds of a model."""
    rows = [row for e in entries for row in e["rows"]]
    own = _own(entries, device)
    memory = [c["peak_mem_bytes"] / 2**30 for c in own if c.get("peak_mem_bytes") is not None]
    params = [r["model"]["params"] for r in rows if r["model"].get("params") is not None]
    licences = sorted({str(r["model"]["licence"]).casefold() for r in rows if r["model"].get("licence")})
    stars = [r["acceptance"]["stars"] for r in rows if (r.get("acceptance") or {}).get("stars") is not None]
    train = [c["train_s"] for c in own if c.get("train_s") is not None]
    return {
        "latency": _median([x for c in own if (x := _latency(c)) is not None]), "memory": _median(memory),
        "params": _median(params), "licence": licences[0] if len(licences) == 1 else None,
        "stars": _median(stars), "train_s": _median(train),
    }  # fmt: skip


def candidate(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Quantities of one (data set, model): its own measurements first, else the model's over all its records.

    Args:
        entry: of the candidate.
        entries: all of its model.
        device: text that a record's device must contain for latency, memory and training time.

    Returns:
        As :func:`quantities`, and ``assumed``: the names taken from the model's other records.
    """
    own, wide = quantities([entry], device), quantities(entries, device)
    assumed = [k for k in own if k != "stars" and own[k] is None and wide[k] is not None]
    return {**own, **{k: wide[k] for k in (*assumed, "stars")}, "assumed": assumed}


def rejection(found: Mapping[str, Any], limits: Mapping[str, float], licence: str) -> str | None:
    """Why a candidate breaks a limit, with both numbers; None if it does not."""
    for limit, quantity in QUANTITIES.items():
        if limit in limits:
            value = found[quantity]
            if value is None:
                return f"{quantity} unknown"
            if value > limits[limit]:
                where = ", median over the model's records" if quantity in found.get("assumed", ()) else ""
                return f"{quantity} {value:.6g} > {limits[limit]:.6g} ({limit}{where})"
    if licence == "permissive" and found["licence"] is None:
        return "licence unknown"
    if licence == "permissive" and found["licence"] not in PERMISSIVE:
        return f"licence {found['licence']} is not permissive"
    return None


def relaxation(
    candidates: Sequence[Mapping[str, Any]], limits: Mapping[str, float], licence: str
) -> dict[str, Any] | None:
    """The nearest single limit that admits one of the candidates, and the value it would need (never a tighter one)."""
    found = []
    for limit, bound in limits.items():
        rest = {k: v for k, v in limits.items() if k != limit}
        values = [q[QUANTITIES[limit]] for q in candidates if rejection(q, rest, licence) is None]
        known = [v for v in values if v is not None and v > bound]
        if known:
            found.append((min(known) / bound if bound else math.inf, limit, min(known)))
    if found:
        _, limit, value = min(found)
        rounded = round(float(value), 9)
        return {"limit": limit, "value": rounded if rounded >= value else rounded + 1e-9}
    if licence == "permissive" and any(rejection(q, limits, "any") is None for q in candidates):
        return {"limit": "licence", "value": "any"}
    return None


def latency_residuals(by_model: Mapping[str, Sequence[Mapping[str, Any]]], device: str) -> list[float]:
    """Log of one measurement over the median of the same model's measurements under other keys, all models pooled.

    They say how far latency moves between data sets: the calibration scores of :func:`feasibility`.
    """
    found = []
    for entries in by_model.values():
        each = [_median([x for c in _own([e], device) if (x := _latency(c))]) for e in entries]
        known = [x for x in each if x]
        for i, value in enumerate(known):
            rest = _median(known[:i] + known[i + 1 :])
            if rest:
                found.append(math.log(value / rest))
    return sorted(found)


def feasibility(
    entries: Sequence[Mapping[str, Any]], limit: float | None, residuals: Sequence[float], device: str
) -> float | None:
    """Probability that the latency on a new data set or batch keeps the limit.

    With enough residuals: the conformal share ``#(median exp(residual) <= limit) / (n + 1)``. Else, with p50 and p95
    of batches: a log-normal through both. Else 1 or 0 by the one number there is. 1 without a limit; None where
    latency is unknown.
    """
    if limit is None:
        return 1.0
    own = _own(entries, device)
    centre = _median([x for c in own if (x := _latency(c)) is not None])
    if centre is None:
        return None
    if len(residuals) >= _FEWEST and centre > 0:
        room = math.log(limit / centre) + 1e-12
        return sum(r <= room for r in residuals) / (len(residuals) + 1)
    low = _median([c["latency_ms_p50"] for c in own if c.get("latency_ms_p50") and c.get("latency_ms_p95")])
    if low is not None and centre > low:
        spread = (math.log(centre) - math.log(low)) / _Z95
        return 0.5 * (1 + math.erf((math.log(limit) - math.log(low)) / spread / math.sqrt(2)))
    return float(centre <= limit)
