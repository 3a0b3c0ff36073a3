"""How good a ranking of models is: regret first (specification, section 4). Lower scores are better. No torch here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.targets import average_ranks

Array = NDArray[np.float64]
Metrics = dict[str, float | None]


def column_metrics(raw: Any, pred: Any, kind: str) -> Metrics | None:
    """Metrics of one column.

    Args:
        raw: ``(M,)`` errors, or 1 - accuracy; NaN missing.
        pred: ``(M,)`` scores, lower is better.
        kind: ``error`` or ``accuracy``.

    Returns:
        regret1, regret3, lratio, nregret, top1, top3, ndcg5, tau, wtau, pearson, n; None with fewer than 4 results.

    Raises:
        ValueError: lengths, unknown kind, a non-positive error, or a NaN prediction of a finite cell.
    """
    y, s = np.asarray(raw, dtype=np.float64), np.asarray(pred, dtype=np.float64)
    _check(y, s, kind)
    finite = np.isfinite(y)
    y, s = y[finite], s[finite]
    if len(y) < 4:
        return None
    order, best = np.argsort(s, kind="stable"), float(y.min())
    first, top3 = float(y[order[0]]), float(y[order[:3]].min())
    gap = float(np.median(y)) - best
    found: Metrics = {
        "lratio": math.log(first / best) if kind == "error" else 0.0,
        "regret1": 100 * (first - best) / (best if kind == "error" else 1.0),
        "regret3": 100 * (top3 - best) / (best if kind == "error" else 1.0),
        "nregret": (first - best) / gap if gap > 1e-12 else math.nan,
        "top1": float(first <= best + 1e-12),
        "top3": float(top3 <= best + 1e-12),
        "ndcg5": _ndcg5(y, order),
    }
    return {**found, **_correlations(y, s), "n": len(y)}


def _check(y: Array, s: Array, kind: str) -> None:
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"raw {y.shape} and pred {s.shape} must be vectors of one length")
    if kind not in ("error", "accuracy"):
        raise ValueError(f"kind is {kind!r}; use 'error' or 'accuracy'")
    finite = np.isfinite(y)
    if kind == "error" and np.any(y[finite] <= 0):
        raise ValueError(f"an error of {y[finite].min()} is not positive")
    if np.isnan(s[finite]).any():
        raise ValueError(f"pred is NaN for model {int(np.flatnonzero(finite & np.isnan(s))[0])}, which has a result")


def _ndcg5(y: Array, order: NDArray[np.intp]) -> float:
    """Gain 2^max(0, 6 - rank) - 1, discount 1/log2(i + 1), first five places."""
    rank = 1 + (y[None, :] < y[:, None] - 1e-12).sum(1)
    gain = 2.0 ** np.maximum(0, 6 - rank) - 1
    discount = 1 / np.log2(np.arange(2, 7))[: len(y)]
    dcg = float((gain[order[:5]] * discount).sum())
    return dcg / float((np.sort(gain)[::-1][:5] * discount).sum())


def _correlations(y: Array, s: Array) -> Metrics:
    from scipy.stats import kendalltau, weightedtau

    flat = np.ptp(y) == 0 or np.ptp(s) == 0
    if flat:
        return {"tau": None, "wtau": None, "pearson": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tau, wtau = float(kendalltau(y, s).statistic), float(weightedtau(-y, -s).statistic)
        pearson = float(np.corrcoef(-y, -s)[0, 1])
    return {
        "tau": None if math.isnan(tau) else tau,
        "wtau": None if math.isnan(wtau) else wtau,
        "pearson": 0.0 if math.isnan(pearson) else pearson,
    }


def one_best_metrics(accuracy: Any, score: Any) -> dict[str, float]:
    """Of the one best model: ``auc1``, ``mrr1``; and ``ndcg1``, the accuracy at the top score over the best.

    Args:
        accuracy: ``(M,)``, higher is better.
        score: ``(M,)``, higher is better.

    Raises:
        ValueError: lengths, or NaN.
    """
    a, s = np.asarray(accuracy, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if a.ndim != 1 or a.shape != s.shape or len(a) < 2:
        raise ValueError(f"accuracy {a.shape} and score {s.shape} must be vectors of one length, at least 2")
    if np.isnan(a).any() or np.isnan(s).any():
        raise ValueError("accuracy or score holds NaN; drop those models first")
    best = int(np.argmax(a))
    auc = (float(average_ranks(s)[best]) - 1) / (len(a) - 1)
    place = int(np.flatnonzero(np.argsort(-s, kind="stable") == best)[0]) + 1
    return {"auc1": auc, "mrr1": 1 / place, "ndcg1": float(a[s == s.max()].mean() / a.max())}


def group_mean(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> dict[str, float]:
    """Mean within a group, then over groups; undefined values are skipped. Adds ``gregret1``."""
    groups: dict[str, dict[str, list[float]]] = {}
    for group, row in rows:
        bucket = groups.setdefault(group, {})
        for name, value in row.items():
            if value is not None and not math.isnan(value):
                bucket.setdefault(name, []).append(value)
    means = [{name: float(np.mean(values)) for name, values in bucket.items()} for bucket in groups.values()]
    names = list(dict.fromkeys(name for row in means for name in row if name != "n"))
    found = {name: float(np.mean([row[name] for row in means if name in row])) for name in names}
    if "lratio" in found:
        found["gregret1"] = 100 * (math.exp(found["lratio"]) - 1)
    return found


def evaluate(bench: Bench, predictions: Any, protocol: str) -> dict[str, float]:
    """Metrics of out-of-sample predictions of a whole bench: the mean of :func:`owned_metrics`.

    Raises:
        ValueError: a shape that does not fit the bench.
    """
    return group_mean(owned_metrics(bench, predictions, protocol))


def owned_metrics(bench: Bench, predictions: Any, protocol: str) -> list[tuple[str, Metrics]]:
    """Metrics of each column with the group it is averaged in.

    Args:
        bench: the table.
        predictions: ``(M, C)`` scores, lower better (a column of NaN is left out), or {column: scores ``(M,)``}.
        protocol: lodo, loso, folds, ...: loso averages within scenarios, folds takes each column alone and adds
            auc1, mrr1, ndcg1; every other averages within groups; cold counts only models with a prediction (the
            cold ones: NaN for the others).

    Raises:
        ValueError: a shape that does not fit the bench.
    """
    if not isinstance(predictions, Mapping):
        array = np.asarray(predictions, dtype=np.float64)
        if array.shape != bench.values.shape:
            raise ValueError(f"predictions are {array.shape}, the bench {bench.values.shape}")
        predictions = {j: array[:, j] for j in range(array.shape[1]) if not np.isnan(array[:, j]).all()}
    rows = []
    for j, scores in predictions.items():
        raw = bench.values[:, j]
        if protocol == "cold":
            raw = np.where(np.isfinite(scores), raw, np.nan)
        row = column_metrics(raw, scores, bench.kind)
        if row is None:
            continue
        if protocol == "folds":
            seen = np.isfinite(bench.values[:, j])
            row |= one_best_metrics(1 - bench.values[seen, j], -np.asarray(scores)[seen])
        owner = str(j) if protocol == "folds" else bench.scenario[j] if protocol == "loso" else bench.group[j]
        rows.append((owner, row))
    return rows


def bootstrap(rows: Sequence[tuple[str, Mapping[str, float | None]]], name: str, draws: int = 1000) -> list[float]:
    """95 % interval of a metric's mean over groups, groups drawn with replacement (seeded)."""
    groups: dict[str, list[float]] = {}
    for group, row in rows:
        if (value := row.get(name)) is not None and not math.isnan(value):
            groups.setdefault(group, []).append(value)
    means = np.array([np.mean(values) for values in groups.values()])
    picks = np.random.default_rng(0).integers(0, len(means), (draws, len(means)))
    return [float(q) for q in np.quantile(means[picks].mean(1), (0.025, 0.975))]
