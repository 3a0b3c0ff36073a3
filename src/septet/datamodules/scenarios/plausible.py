"""The plausibility gate: values that cannot be, copied rows, and cells too good beside all others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from septet.datamodules.scenarios.canonical import block_text

_UPPER = {"fraction": 1.0, "percent": 100.0}


def _impossible(record: Mapping[str, Any]) -> bool:
    scenario, value = record["scenario"], float(record["value"])
    if not math.isfinite(value) or (scenario.get("direction") == "min" and value < 0):
        return True
    upper = _UPPER.get(str(scenario.get("unit")))
    return upper is not None and not 0 <= value <= upper


def plausibility(
    records: Sequence[Mapping[str, Any]],
    *,
    ratio: float = 0.6,
    max_cells: int = 3,
    min_models: int = 4,
    min_copies: int = 3,
) -> list[str]:
    """A verdict per record: ``impossible``, ``copied``, ``too_good``, ``model`` or ``ok`` (specification, section 7).

    Args:
        records: scenario records; values may be non-finite here.
        ratio: below this share of the best other value a cell is too good.
        max_cells: a model with so many such cells is put out as a whole.
        min_models: models a column needs to be judged.
        min_copies: common positions at which two data sets must agree to be copies.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1).
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio is {ratio}; it must lie between 0 and 1")
    verdict = ["impossible" if _impossible(record) else "ok" for record in records]
    models = [block_text(record, "model") for record in records]
    for i in _copied(records, models, verdict, min_copies):
        verdict[i] = "copied"
    cells = _too_good(records, models, verdict, ratio, min_models)
    counts = Counter(models[i] for i in cells)
    for i in cells:
        verdict[i] = "too_good"
    for i, model in enumerate(models):
        if verdict[i] == "ok" and counts[model] >= max_cells:
            verdict[i] = "model"
    return verdict


def _copied(records: Sequence[Mapping[str, Any]], models: list[str], verdict: list[str], min_copies: int) -> set[int]:
    """Records of a model whose two data sets agree at every one of enough common positions."""
    tables: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for i, record in enumerate(records):
        if verdict[i] == "ok":
            position = block_text(record, "scenario", "protocol")
            tables[models[i]][block_text(record, "dataset")][position].append(i)
    found: set[int] = set()
    for sets in tables.values():
        names = sorted(name for name, positions in sets.items() if len(positions) >= min_copies)
        for a, left in enumerate(names):
            for right in names[a + 1 :]:
                common = sorted(sets[left].keys() & sets[right].keys())
                pairs = [(sets[left][p], sets[right][p]) for p in common]
                if len(common) >= min_copies and all(_values(records, x) == _values(records, y) for x, y in pairs):
                    found.update(i for x, y in pairs for i in (*x, *y))
    return found


def _values(records: Sequence[Mapping[str, Any]], rows: list[int]) -> list[float]:
    return sorted(float(records[i]["value"]) for i in rows)


def _too_good(
    records: Sequence[Mapping[str, Any]], models: list[str], verdict: list[str], ratio: float, min_models: int
) -> list[int]:
    columns: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        if verdict[i] == "ok" and record["scenario"].get("direction") == "min":
            columns[block_text(record, "scenario", "dataset", "protocol")].append(i)
    found = []
    for rows in columns.values():
        best: dict[str, float] = {}
        for i in rows:
            best[models[i]] = min(best.get(models[i], math.inf), float(records[i]["value"]))
        if len(best) < min_models:
            continue
        ranked = sorted(best.items(), key=lambda pair: pair[1])
        for i in rows:
            others = ranked[1][1] if ranked[0][0] == models[i] else ranked[0][1]
            if float(records[i]["value"]) < ratio * others:
                found.append(i)
    return found
