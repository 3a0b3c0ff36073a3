"""Plain rules with one interface: the bar for a learnt recommender (specification, section 5). No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.targets import column_targets, loss_of

Array = NDArray[np.float64]
_CLIP = (-2, 6)
_EMPTY = {"rank": 0.5, "z": 0.0, "loss": 0.0}


def _mean(values: Array, fallback: Any) -> Array:
    """Row means over finite cells; ``fallback`` (scalar or ``(M,)``) where a row has none."""
    count = np.isfinite(values).sum(1)
    total = np.where(np.isfinite(values), values, 0.0).sum(1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), fallback))


@lru_cache(16)
def table(bench: Bench, value: str) -> Array:
    """``(M, C)`` ranks, standardised losses or losses; read only, kept for the last few benches.

    Raises:
        ValueError: unknown value.
    """
    if value not in _EMPTY:
        raise ValueError(f"value is {value!r}; use rank, z or loss")
    if value == "loss":
        found = loss_of(bench.values, bench.kind).copy()
    else:
        z, r, _ = column_targets(bench.values, bench.kind, _CLIP)
        found = r if value == "rank" else z
    found.flags.writeable = False
    return found


def _repeat(column: Array, count: int) -> Array:
    return np.repeat(column[:, None], count, axis=1)


def _global_best(bench: Bench, train: list[int], test: list[int]) -> Array:
    return _repeat(_mean(table(bench, "rank")[:, train], 0.5), len(test))


def _global_mean(bench: Bench, train: list[int], test: list[int]) -> Array:
    return _repeat(_mean(table(bench, "z")[:, train], 0.0), len(test))


def _scenario_best(bench: Bench, train: list[int], test: list[int]) -> Array:
    r = table(bench, "rank")
    g = _mean(r[:, train], 0.5)
    same = [[j for j in train if bench.scenario[j] == bench.scenario[c]] for c in test]
    return np.column_stack([_mean(r[:, columns], g) if columns else g for columns in same])


def standardise(bench: Bench, train: Sequence[int]) -> Array:
    """Column features by mean and population std of the train columns (std <= 1e-9: 1)."""
    features = bench.column_features
    mean, std = features[list(train)].mean(0), features[list(train)].std(0)
    return np.asarray((features - mean) / np.where(std <= 1e-9, 1.0, std))


def neighbours(bench: Bench, train: list[int], column: int, k: int, features: Array | None = None) -> list[int]:
    """The k nearest train columns; distances rounded to 9 decimals, ties to the lower column."""
    x = standardise(bench, train) if features is None else features
    ordered = np.sort(np.asarray(train))
    distance = np.round(np.sqrt(((x[ordered] - x[column]) ** 2).sum(1)), 9)
    return [int(j) for j in ordered[np.argsort(distance, kind="stable")[:k]]]


def _knn(bench: Bench, train: list[int], test: list[int], k: int, value: str, c: float | None) -> Array:
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k is {k!r}; the number of neighbours is at least 1")
    if c is not None and not c >= 0:
        raise ValueError(f"c is {c!r}; the shrinkage is not negative")
    a, x = table(bench, value), standardise(bench, train)
    mean = _mean(a[:, train], _EMPTY[value])
    found = []
    for column in test:
        near = a[:, neighbours(bench, train, column, int(k), x)]
        if c is None:
            found.append(_mean(near, mean))
            continue
        count = np.isfinite(near).sum(1)
        total = np.where(np.isfinite(near), near, 0.0).sum(1) + c * mean
        found.append(np.where(count + c > 0, total / np.maximum(count + c, 1e-300), mean))
    return np.column_stack(found)


def _knn_meta(bench: Bench, train: list[int], test: list[int], k: int = 5, value: str = "rank") -> Array:
    return _knn(bench, train, test, k, value, None)


def _knn_shrunk(
    bench: Bench, train: list[int], test: list[int], k: int = 5, c: float = 5.0, value: str = "rank"
) -> Array:
    return _knn(bench, train, test, k, value, c)


def _mf_side(bench: Bench, train: list[int], test: list[int], rank: int = 3, ridge: float = 1.0) -> Array:
    if not isinstance(rank, int | np.integer) or rank < 1:
        raise ValueError(f"rank is {rank!r}; at least 1")
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge!r}; it must be positive")
    r = table(bench, "rank")[:, train]
    g = _mean(r, 0.5)
    residual = np.where(np.isfinite(r), r - g[:, None], 0.0)
    u, s, vt = np.linalg.svd(residual, full_matrices=False)
    q = min(int(rank), len(s))
    scores = vt[:q].T * s[:q]
    x = standardise(bench, train)
    z = x[train]
    weights = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (scores - scores.mean(0)))
    return np.asarray(g[:, None] + u[:, :q] @ (scores.mean(0) + x[test] @ weights).T)


def _priors(bench: Bench, columns: list[int], scenario: str, r: Array, z: Array) -> Array:
    """Mean r, mean z and mean r of the same scenario over some columns, ``(M, 3)``, NaN unknown."""
    same = [j for j in columns if bench.scenario[j] == scenario]
    parts = [_mean(r[:, columns], np.nan), _mean(z[:, columns], np.nan), _mean(r[:, same], np.nan)]
    return np.column_stack(parts)


def _lgbm(bench: Bench, train: list[int], test: list[int], ranker: bool, priors: bool = True) -> Array:
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError("smap needs the graph extra: pip install 'septet[graph]'") from error
    r, z = table(bench, "rank"), table(bench, "z")
    count = len(bench.models)
    own = bench.model_features if bench.model_features is not None else np.empty((count, 0))

    def rows(column: int, columns: list[int]) -> Array:
        side = np.repeat(bench.column_features[column][None], count, axis=0)
        known = [_priors(bench, columns, bench.scenario[column], r, z)] if priors else []
        return np.hstack([*known, own, side])

    features, target, query = [], [], []
    for j in train:
        others = [i for i in train if bench.group[i] != bench.group[j]]
        seen = np.isfinite(r[:, j])
        features.append(rows(j, others)[seen])
        target.append(r[seen, j])
        query.append(int(seen.sum()))
    options: dict[str, Any] = {
        "n_estimators": 300,
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_child_samples": 5,
        "random_state": 0,
        "n_jobs": 1,
        "deterministic": True,
        "verbose": -1,
    }
    x, y = np.vstack(features), np.concatenate(target)
    if ranker:
        model = lightgbm.LGBMRanker(**options).fit(x, np.round(15 * (1 - y)).astype(int), group=query)
    else:
        model = lightgbm.LGBMRegressor(**options).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = np.column_stack([model.predict(rows(j, train)) for j in test])
    return -scores if ranker else scores


def _lgbm_reg(bench: Bench, train: list[int], test: list[int]) -> Array:
    return _lgbm(bench, train, test, ranker=False)


def _lgbm_rank(bench: Bench, train: list[int], test: list[int]) -> Array:
    return _lgbm(bench, train, test, ranker=True)


_RULES: dict[str, Callable[..., Array]] = {
    "global_best": _global_best,
    "global_mean": _global_mean,
    "scenario_best": _scenario_best,
    "knn_meta": _knn_meta,
    "knn_shrunk": _knn_shrunk,
    "mf_side": _mf_side,
    "lgbm_reg": _lgbm_reg,
    "lgbm_rank": _lgbm_rank,
}
NAMES = tuple(_RULES)
PROBE_NAMES = ("best_of_probes", "global_best_probes", "knn_probe")


def _check_columns(bench: Bench, train: Sequence[int], test: Sequence[int]) -> tuple[list[int], list[int]]:
    left, right = [int(j) for j in train], [int(j) for j in test]
    outside = next((j for j in left + right if not 0 <= j < len(bench.columns)), None)
    if outside is not None:
        raise ValueError(f"column {outside} is out of range: the bench has {len(bench.columns)}")
    common = set(left) & set(right)
    if common:
        raise ValueError(f"column {min(common)} is in train and test")
    if not left:
        raise ValueError("train holds no column: nothing to learn from")
    return left, right


def predict(name: str, bench: Bench, train: Sequence[int], test: Sequence[int], **options: Any) -> Array:
    """Scores of all models on the test columns.

    Args:
        name: one of :data:`NAMES`.
        bench: the table; only its train columns are read, and the features of the test columns.
        train: columns whose results may be used.
        test: columns to predict.
        options: of the rule, such as ``k``, ``c``, ``value``, ``rank``, ``ridge``.

    Returns:
        ``(M, len(test))``, lower is better, rounded to 9 decimals so that ties are exact.

    Raises:
        ValueError: unknown name or option, option out of range, a column in train and test or out of range.
    """
    if name not in _RULES:
        raise ValueError(f"unknown baseline {name!r}: choose one of {', '.join(NAMES)}")
    left, right = _check_columns(bench, train, test)
    try:
        scores = _RULES[name](bench, left, right, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ValueError(f"{name} has no option {sorted(options)}: {error}") from error
        raise
    return np.round(scores, 9)


def _deal(scores: Array, probes: list[int], revealed: Array) -> Array:
    """Sort the probed models' own scores and deal them by revealed loss (ties: lower index)."""
    order = [probes[i] for i in np.lexsort((np.asarray(probes), revealed))]
    dealt = scores.copy()
    dealt[order] = np.sort(scores[probes])
    return dealt


def check_probes(bench: Bench, column: int, probes: Sequence[int]) -> tuple[list[int], Array]:
    """The probed models of a column and their losses.

    Raises:
        ValueError: no probe, a probe twice, out of range or without a result.
    """
    chosen = [int(m) for m in probes]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"probes are {chosen}: give at least one model, each once")
    if not all(0 <= m < len(bench.models) for m in chosen):
        raise ValueError(f"a probe of {chosen} is out of range: the bench has {len(bench.models)} models")
    revealed = loss_of(bench.values[:, [column]], bench.kind)[chosen, 0]
    if np.isnan(revealed).any():
        raise ValueError(f"a probe of {chosen} has no result on column {column}")
    return chosen, np.asarray(revealed)


def probe_predict(name: str, bench: Bench, train: Sequence[int], column: int, probes: Sequence[int]) -> Array:
    """Scores on one column after ``k`` of its results are revealed.

    Args:
        name: one of :data:`PROBE_NAMES`.
        bench: the table.
        train: columns whose results may be used.
        column: the test column.
        probes: models whose result on it is revealed.

    Returns:
        ``(M,)``, lower is better.

    Raises:
        ValueError: unknown name, no probe, a probe twice, out of range or without a result, bad columns.
    """
    if name not in PROBE_NAMES:
        raise ValueError(f"unknown probe rule {name!r}: choose one of {', '.join(PROBE_NAMES)}")
    left, _ = _check_columns(bench, train, [column])
    chosen, revealed = check_probes(bench, column, probes)
    g = np.round(_global_best(bench, left, [column])[:, 0], 9)
    if name == "best_of_probes":
        scores = 1 + g
        scores[chosen] = (1 + (revealed[None, :] < revealed[:, None]).sum(1)) / (len(chosen) + 1) - 1
        return np.round(scores, 9)
    if name == "global_best_probes":
        return _deal(g, chosen, revealed)
    return _deal(np.round(_blend(bench, left, chosen, revealed, g), 9), chosen, revealed)


def _blend(bench: Bench, train: list[int], probes: list[int], revealed: Array, g: Array) -> Array:
    """``(sum w r + g) / (sum w + 1)`` with ``w_c = exp(-8 mean|rho_c - rho| / max(k - 1, 1))``."""
    r, loss = table(bench, "rank"), loss_of(bench.values, bench.kind)
    weight, total = np.ones(len(g)), _global_best_raw(bench, train)
    far = _rank_distance(loss[np.ix_(probes, train)], revealed) / max(len(probes) - 1, 1)
    for c, distance in zip(train, far, strict=True):
        if np.isfinite(distance):
            w = float(np.exp(-8 * distance))
            finite = np.isfinite(r[:, c])
            total = total + np.where(finite, w * np.nan_to_num(r[:, c]), 0.0)
            weight = weight + np.where(finite, w, 0.0)
    return total / weight


def _rank_distance(loss: Array, revealed: Array) -> Array:
    """Mean ``|rho_c - rho|`` of average ranks among the probes ``(k, C)`` that a column has; NaN where it has none."""
    seen = np.isfinite(loss)

    def ranks(values: Array) -> Array:
        less = (seen[None] & (values[None] < values[:, None])).sum(1)
        return np.asarray(less + ((seen[None] & (values[None] == values[:, None])).sum(1) + 1) / 2)

    gap = np.where(seen, np.abs(ranks(loss) - ranks(np.repeat(revealed[:, None], loss.shape[1], 1))), 0.0)
    count = seen.sum(0)
    return np.where(count > 0, gap.sum(0) / np.maximum(count, 1), np.nan)


def _global_best_raw(bench: Bench, train: list[int]) -> Array:
    return _mean(table(bench, "rank")[:, train], 0.5)
