"""From pooled records to a ranked assignment with evidence, limits and an honest "not enough evidence". No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from septet.datamodules.scenarios.records import canonical_block
from septet.datamodules.scenarios.tables import bench_of_entries, column_name, is_percent, model_name, pooled
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.conformal import conformal_quantile
from septet.lightning_modules.smap.limits import feasibility, latency_residuals, quantities, rejection, relaxation

LEVEL = 0.8
"""Coverage of the conformal intervals."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        scenario: canonical fields that a record must equal (task, metric, horizon, ...).
        limits: max_latency_ms, max_params, max_memory_gb where given.
        licence: ``any`` or ``permissive``.
        device: text that a record's device must contain for its latency and memory to count.
        datasets: names to choose among; empty: all.
        models: names to choose among; empty: all.
        scorer: a baseline's name, or ``smap``.
        weights: of accuracy, efficiency, acceptance.
        max_regret: percent; a wider interval abstains.
        top: choices shown.
        probe: models named on abstention.
    """

    scenario: Mapping[str, Any]
    limits: Mapping[str, float] = field(default_factory=dict)
    licence: str = "any"
    device: str = ""
    datasets: Sequence[str] = ()
    models: Sequence[str] = ()
    scorer: str = "knn_shrunk"
    weights: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0})
    max_regret: float | None = None
    top: int = 5
    probe: int = 3


def _r(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 9)


def _scores(entries: list[dict[str, Any]], scorer: str) -> tuple[Any, Any]:
    """Bench and score per model: the rule applied to a new column in the middle of the scenario's features."""
    bench = bench_of_entries(entries)
    middle = bench.column_features.mean(0, keepdims=True)
    wide = type(bench)(
        bench.name, bench.models, [*bench.columns, "?"], [*bench.group, "?"], [*bench.scenario, "?"], bench.kind,
        np.column_stack([bench.values, np.full(len(bench.models), np.nan)]), np.vstack([bench.column_features, middle]),
    )  # fmt: skip
    train, test = list(range(len(bench.columns))), [len(bench.columns)]
    if scorer == "smap":
        from septet.datamodules.scenarios.splits import Split
        from septet.lightning_modules.smap.run import fit_predict

        return bench, fit_predict(wide, Split("?", train, test))[:, 0]
    options = {"k": len(train)} if scorer.startswith("knn") and not bench.column_features.shape[1] else {}
    return bench, baselines.predict(scorer, wide, train, test, **options)[:, 0]


def regret_bound(bench: Any, scorer: str) -> float:
    """Conformal bound in percent (points) of the regret of the first choice, by leaving one group out."""
    rule = scorer if scorer in baselines.NAMES else "knn_shrunk"
    found = []
    for group in dict.fromkeys(bench.group):
        test = [j for j, g in enumerate(bench.group) if g == group]
        train = [j for j, g in enumerate(bench.group) if g != group]
        if not train:
            continue
        scores = baselines.predict(rule, bench, train, test)
        for q, j in enumerate(test):
            column = bench.values[:, j]
            seen = np.isfinite(column)
            if seen.sum() >= 2:
                pick, best = column[seen][np.argmin(scores[seen, q])], column[seen].min()
                found.append(100 * (pick - best) / (best if bench.kind == "error" else 1.0))
    return conformal_quantile(found, LEVEL)


def choose(records: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """The answer as a plain mapping (specification, section 8), equal for the same records in any order."""
    entries = pooled(records)
    answer: dict[str, Any] = {
        "schema": 1, "status": "ok", "scenario": dict(sorted(request.scenario.items())), "scorer": request.scorer,
        "choices": [], "rejected": [], "relaxation": None, "probes": None, "records_used": len(entries),
    }  # fmt: skip
    by_model: dict[str, list[dict[str, Any]]] = {}
    for e in entries:
        by_model.setdefault(model_name(e["record"]), []).append(e)
    if len(by_model) < 2 or len(entries) < 3:
        reason = f"{len(by_model)} models and {len(entries)} records; at least 2 and 3 are needed"
        return {**answer, "status": "abstain", "probes": _probes(by_model, request, reason)}
    bench, scores = _scores(entries, request.scorer)
    order = [bench.models[i] for i in np.argsort(scores, kind="stable")]
    score = {m: float(scores[i]) for i, m in enumerate(bench.models)}
    bound = regret_bound(bench, request.scorer)
    if request.max_regret is not None and bound > request.max_regret:
        shown = "unbounded" if math.isinf(bound) else f"{bound:.3g} %"
        reason = f"regret of the first choice is bounded by {shown} only, wanted {request.max_regret:g} %"
        return {**answer, "status": "abstain", "probes": _probes({m: by_model[m] for m in order}, request, reason)}
    ranks = baselines.table(bench, "rank")
    table = {m: quantities(by_model[m], request.device) for m in order}
    kept: list[str] = []
    for m in order:
        why = _not_asked(m, by_model[m], request) or rejection(table[m], request.limits, request.licence)
        if why is None:
            kept.append(m)
        else:
            answer["rejected"].append(
                {"model": m, "dataset": _dataset(by_model[m], bench, ranks, m, request)[0], "reason": why}
            )
    if not kept:
        return {**answer, "status": "infeasible", "relaxation": relaxation(table, request.limits, request.licence)}
    residuals = latency_residuals(by_model, request.device)
    limit = request.limits.get("max_latency_ms")
    utility = _utilities(kept, score, table, request.weights)
    ranked = sorted(kept, key=lambda m: (-utility[m], kept.index(m)))
    front = _pareto(kept, score, table)
    for rank, m in enumerate(ranked[: request.top], 1):
        dataset, entry = _dataset(by_model[m], bench, ranks, m, request)
        answer["choices"].append({
            "rank": rank, "dataset": dataset, "model": m, "predicted": _r(entry["mean"]),
            "interval": _interval(entry["mean"], bound, bench.kind, is_percent(entry["record"])),
            "latency_ms": _r(table[m]["latency"]),
            "p_feasible": _r(feasibility(by_model[m], limit, residuals, request.device)),
            "utility": _r(utility[m]), "pareto": m in front, "evidence": _evidence(by_model[m], dataset),
        })  # fmt: skip
    return answer


def _not_asked(model: str, entries: Sequence[Mapping[str, Any]], request: Request) -> str | None:
    names = {canonical_block("model", {"name": m})["name"] for m in request.models}
    if names and model.split("/")[0] not in names and model not in names:
        return "not among --models"
    if request.datasets and not _inside(entries, request.datasets):
        return "no record on --datasets"
    return None


def _inside(entries: Sequence[Mapping[str, Any]], datasets: Sequence[str]) -> list[Mapping[str, Any]]:
    names = {canonical_block("dataset", {"name": d})["name"] for d in datasets}
    return [e for e in entries if canonical_block("dataset", e["record"]["dataset"])["name"] in names]


def _dataset(
    entries: Sequence[Mapping[str, Any]], bench: Any, ranks: Any, model: str, request: Request
) -> tuple[str, Any]:
    """The data set where the model stands best among the others (rank, then key)."""
    r = ranks[bench.models.index(model)]
    place = {c: j for j, c in enumerate(bench.columns)}
    pool_of = _inside(entries, request.datasets) if request.datasets else list(entries)
    pool_of = pool_of or list(entries)
    best = min(pool_of, key=lambda e: (round(float(r[place[column_name(e["record"])]]), 9), e["key"]))
    return str(canonical_block("dataset", best["record"]["dataset"])["name"]), best


def _interval(value: float, bound: float, kind: str, percent: bool) -> list[float | None] | None:
    """Where a result may fall short of the choice's own: the conformal regret bound around the pooled mean."""
    if math.isinf(bound):
        return None
    if kind == "error":
        width = value * bound / 100
        return [_r(max(value - width, 0.0)), _r(value + width)]
    top = 100.0 if percent else 1.0
    width = bound * top / 100
    return [_r(max(value - width, 0.0)), _r(min(value + width, top))]


def _evidence(entries: Sequence[Mapping[str, Any]], dataset: str) -> list[dict[str, Any]]:
    def name(e: Mapping[str, Any]) -> str:
        return str(canonical_block("dataset", e["record"]["dataset"])["name"])

    ordered = sorted(entries, key=lambda e: (name(e) != dataset, e["key"]))
    return [
        {
            "key": e["key"],
            "dataset": name(e),
            "value": _r(e["mean"]),
            "weight": _r(1 / len(entries)),
            "source": e["sources"][0],
        }
        for e in ordered[:3]
    ]


def _unit(values: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    """Normalised ranks in [0, 1], low is best; unknown counts as worst."""
    known = sorted({v for m in names if (v := values[m]) is not None})
    return {m: known.index(v) / max(len(known) - 1, 1) if (v := values[m]) is not None else 1.0 for m in names}


def _utilities(
    names: Sequence[str],
    score: Mapping[str, float],
    table: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float],
) -> dict[str, float]:
    latency = {m: table[m]["latency"] if table[m]["latency"] is not None else table[m]["params"] for m in names}
    stars = {m: None if table[m]["stars"] is None else -table[m]["stars"] for m in names}
    slow, unknown = _unit(latency, names), _unit(stars, names)
    total = sum(weights.values())
    return {
        m: -(weights.get("accuracy", 0) * score[m] + weights.get("efficiency", 0) * slow[m]
             + weights.get("acceptance", 0) * unknown[m]) / total
        for m in names
    }  # fmt: skip


def _pareto(names: Sequence[str], score: Mapping[str, float], table: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Models that no other beats in score, latency and parameters at once; unknown is worst."""

    def point(m: str) -> tuple[float, ...]:
        return (score[m], *(math.inf if table[m][q] is None else table[m][q] for q in ("latency", "params")))

    return {
        m for m in names
        if not any(point(o) != point(m) and all(a <= b for a, b in zip(point(o), point(m), strict=True)) for o in names)
    }  # fmt: skip


def _probes(by_model: Mapping[str, Sequence[Any]], request: Request, reason: str) -> list[dict[str, Any]]:
    """Models to measure next: in order of promise, else those with the fewest records."""
    ordered = sorted(by_model, key=lambda m: len(by_model[m])) if "needed" in reason else list(by_model)
    return [{"model": m, "reason": reason} for m in ordered[: request.probe]]
