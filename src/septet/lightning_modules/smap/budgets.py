"""Choice under a latency budget on traffic, with latency known, predicted by the law, or predicted with a margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench, load_bench
from septet.datamodules.scenarios.costs import Costs, traffic_costs
from septet.datamodules.scenarios.splits import split
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.conformal import conformal_quantile
from septet.lightning_modules.smap.latency import LatencyLaw

Array = NDArray[np.float64]
SOURCES = ("oracle", "law", "margin")
LEVEL = 0.9
"""Coverage of the margin above the law."""


def law_prediction(costs: Costs, known: Sequence[int], asked: int) -> Array:
    """Seconds ``(M,)`` on a data set, from the law fitted to the known ones."""
    count = len(costs.models)
    model, place = np.meshgrid(np.arange(count), np.asarray(known), indexing="ij")
    model, place = model.ravel(), place.ravel()
    law = LatencyLaw.fit(costs.nodes[place], costs.seconds[model, place], model, count)
    return law.predict(np.arange(count), costs.nodes[asked])


def predicted(costs: Costs, source: str) -> Array:
    """Seconds ``(M, D)``, each data set from the others only (``oracle``: as measured).

    ``margin`` multiplies the law by the conformal quantile of its leave-one-set-out errors on the *other* sets.

    Raises:
        ValueError: unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)}")
    if source == "oracle":
        return costs.seconds
    sets = range(len(costs.sets))
    columns = []
    for d in sets:
        others = [k for k in sets if k != d]
        column = law_prediction(costs, others, d)
        if source == "margin":
            ratio = [
                np.log(costs.seconds[:, k] / law_prediction(costs, [i for i in others if i != k], k)) for k in others
            ]
            column = column * np.exp(max(conformal_quantile(np.concatenate(ratio).tolist(), LEVEL), 0.0))
        columns.append(column)
    return np.column_stack(columns)


def law_error(costs: Costs) -> dict[str, float]:
    """Absolute error of the law in percent, a data set left out: median and 90th percentile."""
    error = 100 * np.abs(predicted(costs, "law") - costs.seconds) / costs.seconds
    return {"median_ape_pct": float(np.median(error)), "p90_ape_pct": float(np.percentile(error, 90))}


def out_of_sample(bench: Bench, rule: str) -> Array:
    """Scores ``(M, C)`` of a plain rule, a data set left out."""
    scores = np.full(bench.values.shape, np.nan)
    for part in split(bench, "lodo"):
        scores[:, part.test] = baselines.predict(rule, bench, part.train, part.test)
    return scores


def under_budget(scores: Array, quantile: float, source: str) -> dict[str, float]:
    """Violations and regret of the best-scored model that is predicted to fit the budget.

    The budget of a data set is a quantile of its models' measured latencies.

    Args:
        scores: ``(25, 24)`` for the traffic bench, lower is better.
        quantile: in (0, 1).
        source: of the latency, one of :data:`SOURCES`.

    Returns:
        ``violation_rate``; ``regret_feasible_pct`` of the choices that fit, against the best model that fits;
        ``abstained``, the share of columns for which no model is predicted to fit.
    """
    bench, costs = load_bench("traffic_mts"), traffic_costs()
    estimate = predicted(costs, source)
    broken: dict[str, list[float]] = {}
    regret: dict[str, list[float]] = {}
    empty = 0
    for j, group in enumerate(bench.group):
        d = costs.sets.index(group)
        budget, y = float(np.quantile(costs.seconds[:, d], quantile)), bench.values[:, j]
        fits = costs.seconds[:, d] <= budget
        order = [i for i in np.argsort(scores[:, j], kind="stable") if estimate[i, d] <= budget]
        if not order:
            empty += 1
            continue
        broken.setdefault(group, []).append(float(not fits[order[0]]))
        if fits[order[0]]:
            best = float(y[fits].min())
            regret.setdefault(group, []).append(100 * (float(y[order[0]]) - best) / best)
    return {
        "violation_rate": _mean(broken),
        "regret_feasible_pct": _mean(regret),
        "abstained": empty / len(bench.group),
    }


def _mean(groups: dict[str, list[float]]) -> float:
    return float(np.mean([np.mean(v) for v in groups.values()])) if groups else float("nan")
