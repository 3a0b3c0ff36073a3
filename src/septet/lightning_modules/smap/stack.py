"""A prior from plain rules: their out-of-fold rankings, weighted by what an inner cross-validation says. No torch.

Only train columns are read: every train column is ranked by rules that never saw its group, and the weights come from
those rankings. With few groups all rules within the noise of the best one keep a say; with many groups the best wins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.targets import average_ranks
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.scoring import _ndcg5

Array = NDArray[np.float64]
CRITERIA = ("regret", "ndcg5")
RULES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "global_best": ("global_best", {}),
    "global_mean": ("global_mean", {}),
    "scenario_best": ("scenario_best", {}),
    "knn_meta": ("knn_meta", {}),
    "knn_shrunk": ("knn_shrunk", {}),
    "knn_shrunk_loss": ("knn_shrunk", {"k": 5, "c": 1.0, "value": "loss"}),
    "mf_side": ("mf_side", {}),
    "lgbm_reg": ("lgbm_reg", {}),
}
_LGBM_CELLS = 2_000
"""Tables with more cells leave LightGBM out of the stack: it would be fitted once per inner fold."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """Stacked ranks of models.

    Attributes:
        scores: ``(M, C)``, 0 best to 1 worst; out of fold for train columns, NaN for columns outside the split.
        weights: of each rule, summing to 1.
        loss: inner loss of each rule.
    """

    scores: Array
    weights: dict[str, float]
    loss: dict[str, float]


def rules_for(bench: Bench) -> list[str]:
    """Names of the rules that take part for a table."""
    boosted = bench.values.size <= _LGBM_CELLS and importlib.util.find_spec("lightgbm") is not None
    return [name for name in RULES if boosted or not name.startswith("lgbm")]


def stacked(
    bench: Bench,
    train: Sequence[int],
    test: Sequence[int],
    *,
    hidden: Collection[str] = (),
    criterion: str = "regret",
    sharpness: float = 1.0,
    folds: int = 8,
    rules: Sequence[str] | None = None,
) -> Stack:
    """Rank all models on train (out of fold) and test columns.

    Args:
        bench: the table; results outside ``train`` are dropped first.
        train: columns whose results may be used.
        test: columns to rank.
        hidden: groups that other train columns may not read (validation).
        criterion: inner loss: ``regret`` (normalised regret of the first choice, at most 3) or ``ndcg5``.
        sharpness: s of weight exp(-s difference / its standard error); infinity keeps the best rule only.
        folds: at most so many inner folds of groups.
        rules: names of :data:`RULES`; None: :func:`rules_for`.

    Raises:
        ValueError: unknown criterion or rule, a sharpness that is negative.
    """
    names = rules_for(bench) if rules is None else list(rules)
    unknown = [name for name in names if name not in RULES]
    if unknown or not names:
        raise ValueError(f"rules are {list(names)}: choose at least one of {', '.join(RULES)}")
    _check(criterion, sharpness)
    clean = np.full_like(bench.values, np.nan)
    clean[:, list(train)] = bench.values[:, list(train)]
    bench = dataclasses.replace(bench, values=clean)
    ranks = _rule_ranks(bench, list(train), list(test), hidden, folds, names)
    usable = [j for j in train if np.isfinite(ranks[0][:, j]).all()]
    return weighted(bench, usable, ranks, names, criterion, sharpness)


def weighted(
    bench: Bench, columns: Sequence[int], ranks: Array, names: Sequence[str], criterion: str, sharpness: float
) -> Stack:
    """Mean of rankings ``(R, M, C)``, each weighted by its loss on some columns of ``bench``.

    Raises:
        ValueError: unknown criterion, a sharpness that is negative.
    """
    _check(criterion, sharpness)
    consensus = np.round(ranks.mean(0), 9)
    table = np.array([_losses(bench, columns, rank, consensus, _LOSSES[criterion]) for rank in ranks])
    weights = _weights(table, sharpness)
    scores = np.einsum("r,rmc->mc", weights, ranks)
    means = table.mean(1) if table.size else np.zeros(len(names))
    return Stack(
        np.round(scores, 9),
        dict(zip(names, map(float, weights), strict=True)),
        dict(zip(names, map(float, means), strict=True)),
    )


_SEEN: dict[str, Array] = {}
"""Ranks by content of the train cells: seeds, members and criteria share them."""


def content_key(bench: Bench, *asked: Any) -> str:
    """Sum over a table and what is asked of it: equal content, equal answer."""
    words = json.dumps([*asked, bench.kind, bench.group, bench.scenario])
    extra = b"" if bench.model_features is None else bench.model_features.tobytes()
    data = words.encode() + bench.values.tobytes() + bench.column_features.tobytes() + extra
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _rule_ranks(
    bench: Bench, train: list[int], test: list[int], hidden: Collection[str], folds: int, names: Sequence[str]
) -> Array:
    """Ranks ``(R, M, C)`` of each rule, out of fold on train columns; NaN elsewhere."""
    key = content_key(bench, names, train, test, sorted(hidden), folds)
    if key not in _SEEN:
        while len(_SEEN) >= 64:
            _SEEN.pop(next(iter(_SEEN)))
        columns = [j for j in train if np.isfinite(bench.values[:, j]).any()]
        parts = [*_inner_folds(bench, columns, hidden, folds), (columns, test)]
        ranks = np.full((len(names), *bench.values.shape), np.nan)
        for i, name in enumerate(names):
            rule, options = RULES[name]
            for known, wanted in parts:
                if known and wanted:
                    found = baselines.predict(rule, bench, known, wanted, **options)
                    ranks[i][:, wanted] = _ranks(found)
        _SEEN[key] = ranks
    return _SEEN[key]


def _check(criterion: str, sharpness: float) -> None:
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}: choose one of {', '.join(CRITERIA)}")
    if not sharpness >= 0:
        raise ValueError(f"sharpness is {sharpness}; it is not negative")


def _inner_folds(
    bench: Bench, columns: Sequence[int], hidden: Collection[str], folds: int
) -> list[tuple[list[int], list[int]]]:
    """(known, asked) columns: groups leave together, in turn; hidden groups are asked but never known."""
    groups = list(dict.fromkeys(bench.group[j] for j in columns))
    place = {g: i % folds for i, g in enumerate(groups)}
    return [
        (
            [j for j in columns if place[bench.group[j]] != f and bench.group[j] not in hidden],
            [j for j in columns if place[bench.group[j]] == f],
        )
        for f in sorted(set(place.values()))
    ]


def _ranks(scores: Array) -> Array:
    """Average ranks per column as 0 to 1."""
    count = max(len(scores) - 1, 1)
    return np.column_stack([(average_ranks(column) - 1) / count for column in scores.T])


def _regret(y: Array, order: NDArray[np.intp]) -> float:
    best = float(y.min())
    gap = float(np.median(y)) - best
    return min((float(y[order[0]]) - best) / gap, 3.0) if gap > 1e-12 else 0.0


_LOSSES: dict[str, Callable[[Array, NDArray[np.intp]], float]] = {
    "regret": _regret,
    "ndcg5": lambda y, order: 1 - _ndcg5(y, order),
}


def _losses(
    bench: Bench,
    columns: Sequence[int],
    ranks: Array,
    consensus: Array,
    loss: Callable[[Array, NDArray[np.intp]], float],
) -> Array:
    """Mean inner loss per group ``(G,)``; ties of a rule go by all rules together, never by the order of models."""
    found: dict[str, list[float]] = {}
    for j in columns:
        seen = np.isfinite(bench.values[:, j])
        if seen.sum() >= 4:
            y = bench.values[seen, j]
            found.setdefault(bench.group[j], []).append(loss(y, np.lexsort((consensus[seen, j], ranks[seen, j]))))
    return np.array([np.mean(values) for values in found.values()])


def _weights(table: Array, sharpness: float) -> Array:
    """``(R, G)`` losses -> weights: exp(-s difference / standard error) against the best rule, normalised."""
    rules, groups = table.shape if table.ndim == 2 else (len(table), 0)
    if groups < 2:
        return np.full(rules, 1 / rules)
    best = int(table.mean(1).argmin())
    gap = table - table[best]
    error = gap.std(1, ddof=1) / math.sqrt(groups)
    if math.isinf(sharpness):
        weight = np.where(np.arange(rules) == best, 1.0, 0.0)
    else:
        weight = np.exp(-sharpness * gap.mean(1) / np.maximum(error, 1e-9))
    return np.asarray(weight / weight.sum())
