"""Models without any result: rules that rank them by their features, and their stack. No torch.

Rules of :mod:`baselines` other than LightGBM know a model by its results only and give all such models one score.
Only warm results are read. Weights of the stack come from an inner cross-validation over warm models: each is ranked by
rules that never saw a result of it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench, components_of
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.stack import Stack, content_key, weighted

Array = NDArray[np.float64]
_FOLDS = 5
_SEEN: dict[str, Array] = {}


def side_features(bench: Bench) -> Array:
    """What is known of a model without any result ``(M, G)``: features, component tags, first word of its name.

    Tags are 0 or 1; those that one model or all models have are left out.
    """
    numeric = np.empty((len(bench.models), 0)) if bench.model_features is None else bench.model_features
    stems = [re.match(r"[a-z]{3,}", name.casefold()) for name in bench.models]
    tags = components_of(bench.models)
    sets = [{*tags[m], *([f"name:{s[0]}"] if s else [])} for m, s in zip(bench.models, stems, strict=True)]
    table = np.array([[float(t in own) for t in sorted(set().union(*sets))] for own in sets])
    return np.hstack([numeric, table[:, (table.sum(0) > 1) & (table.sum(0) < len(table))]])


def _features(bench: Bench, warm: Sequence[int]) -> Array:
    """Model features ``(M, G)`` standardised on warm models; unknown becomes 0."""
    assert bench.model_features is not None
    x = bench.model_features
    mean, std = np.nanmean(x[warm], 0), np.nanstd(x[warm], 0)
    return np.asarray(np.nan_to_num((x - mean) / np.where(std > 1e-9, std, 1.0)))


def _knn_model(bench: Bench, warm: list[int], cold: list[int], k: int = 3) -> Array:
    """Mean rank of the k nearest warm models with a result on the column (ties to the lower row)."""
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k is {k!r}; the number of neighbours is at least 1")
    r, x = baselines.table(bench, "rank"), _features(bench, warm)
    found = np.full((len(cold), r.shape[1]), 0.5)
    for i, m in enumerate(cold):
        far = np.round(np.sqrt(((x[warm] - x[m]) ** 2).sum(1)), 9)
        order = [warm[p] for p in np.argsort(far, kind="stable")]
        for j in range(r.shape[1]):
            near = [r[w, j] for w in order if np.isfinite(r[w, j])][:k]
            found[i, j] = np.mean(near) if near else 0.5
    return found


def _ridge_model(bench: Bench, warm: list[int], cold: list[int], ridge: float = 1.0) -> Array:
    """Rank as a linear function of model features, fitted per column."""
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge!r}; it must be positive")
    r, x = baselines.table(bench, "rank"), _features(bench, warm)
    found = np.full((len(cold), r.shape[1]), 0.5)
    for j in range(r.shape[1]):
        rows = [w for w in warm if np.isfinite(r[w, j])]
        if rows:
            centre, mean = x[rows].mean(0), r[rows, j].mean()
            z = x[rows] - centre
            weight = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (r[rows, j] - mean))
            found[:, j] = mean + (x[cold] - centre) @ weight
    return found


def _lgbm_reg(bench: Bench, warm: list[int], cold: list[int]) -> Array:
    """``lgbm_reg`` of :mod:`baselines`: the priors of cold models are unknown, their features are not."""
    columns = list(range(len(bench.columns)))
    return baselines._lgbm(bench, columns, columns, ranker=False)[cold]


def _lgbm_model(bench: Bench, warm: list[int], cold: list[int]) -> Array:
    """``lgbm_reg`` without priors: features of models and columns only."""
    columns = list(range(len(bench.columns)))
    return baselines._lgbm(bench, columns, columns, ranker=False, priors=False)[cold]


_RULES: dict[str, Callable[..., Array]] = {
    "knn_model": _knn_model, "ridge_model": _ridge_model, "lgbm_reg": _lgbm_reg, "lgbm_model": _lgbm_model,
}  # fmt: skip
NAMES = tuple(_RULES)


def names_here() -> list[str]:
    """Rules that can run: all, or those without LightGBM."""
    return [n for n in NAMES if importlib.util.find_spec("lightgbm") is not None or not n.startswith("lgbm")]


def _without(bench: Bench, rows: Sequence[int], side: Array | None = None) -> Bench:
    values = bench.values.copy()
    values[list(rows)] = np.nan
    return dataclasses.replace(bench, values=values, model_features=bench.model_features if side is None else side)


def predict(name: str, bench: Bench, cold: Sequence[int], **options: Any) -> Array:
    """Expected ranks (0 best to 1 worst, not clipped) of models without results.

    Args:
        name: one of :data:`NAMES`.
        bench: the table; results of ``cold`` rows are dropped before anything is computed.
        cold: rows to rank.
        options: ``k`` of knn_model, ``ridge`` of ridge_model.

    Returns:
        ``(len(cold), C)``, rounded to 9 decimals.

    Raises:
        ValueError: unknown name, a bench without model features, rows out of range or none left, a wrong option.
    """
    if name not in _RULES:
        raise ValueError(f"unknown rule {name!r} for cold models: choose one of {', '.join(NAMES)}")
    side = side_features(bench)
    if not side.shape[1]:
        raise ValueError(f"bench {bench.name!r} has no model features: nothing is known of a model without results")
    rows = [int(m) for m in cold]
    warm = [m for m in range(len(bench.models)) if m not in set(rows)]
    if not rows or not warm or not all(0 <= m < len(bench.models) for m in rows):
        raise ValueError(f"cold rows are {rows}: some but not all of the {len(bench.models)} models")
    return np.asarray(np.round(_RULES[name](_without(bench, rows, side), warm, rows, **options), 9))


def stacked(bench: Bench, cold: Sequence[int], *, criterion: str = "regret", sharpness: float = 1.0) -> Stack:
    """Expected ranks ``(M, C)`` of all models from their features: warm ones out of fold, cold ones from all warm.

    Args:
        bench: the table; results of ``cold`` rows are dropped first.
        cold: rows without results.
        criterion: inner loss, as of :func:`stack.stacked`.
        sharpness: of the weights.

    Raises:
        ValueError: as of :func:`predict`; unknown criterion, negative sharpness.
    """
    clean, names = _without(bench, cold), names_here()
    key = content_key(clean, bench.models, names, sorted(cold))
    if key not in _SEEN:
        while len(_SEEN) >= 16:
            _SEEN.pop(next(iter(_SEEN)))
        warm = [m for m in range(len(bench.models)) if m not in set(cold)]
        parts = [warm[f::_FOLDS] for f in range(min(_FOLDS, len(warm)))]
        found = np.full((len(names), *bench.values.shape), np.nan)
        for i, name in enumerate(names):
            for part in parts:
                found[i, part] = predict(name, clean, [*cold, *part])[len(cold) :]
            found[i, list(cold)] = predict(name, clean, cold)
        _SEEN[key] = found
    columns = [j for j in range(len(bench.columns)) if np.isfinite(clean.values[:, j]).any()]
    return weighted(clean, columns, _SEEN[key], names, criterion, sharpness)
