"""Which records speak for a choice and how much each moved its score. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.records import canonical_block
from septet.lightning_modules.smap import baselines

Array = NDArray[np.float64]


def rounded(value: float | None) -> float | None:
    """Nine decimals; None where there is no finite number."""
    return None if value is None or not math.isfinite(value) else round(float(value), 9)


def dataset_name(entry: Mapping[str, Any]) -> str:
    """Canonical name of an entry's data set."""
    return str(canonical_block("dataset", entry["record"]["dataset"])["name"])


def widened(bench: Bench) -> Bench:
    """The bench with one more column "?": the question, in the middle of the known features."""
    middle = bench.column_features.mean(0, keepdims=True)
    return Bench(
        bench.name, bench.models, [*bench.columns, "?"], [*bench.group, "?"], [*bench.scenario, "?"], bench.kind,
        np.column_stack([bench.values, np.full(len(bench.models), np.nan)]), np.vstack([bench.column_features, middle]),
    )  # fmt: skip


def knn_options(bench: Bench, scorer: str) -> dict[str, int]:
    """Without features every column is a neighbour."""
    return {"k": len(bench.columns)} if scorer.startswith("knn") and not bench.column_features.shape[1] else {}


def weights(bench: Bench, scorer: str, asked: Sequence[int] = ()) -> Array | None:
    """Share ``(M, C)`` of each result in its model's score, rows sum to 1; None where a rule has no such shares.

    Args:
        bench: the columns that are scored from.
        scorer: a plain rule; factorisation, LightGBM and SMAP have no shares.
        asked: columns of the data sets asked for, whose mean rank then is the score.
    """
    seen = np.isfinite(bench.values)
    held = seen.astype(float)
    if len(asked):
        only = np.zeros_like(held)
        only[:, list(asked)] = held[:, list(asked)]
        return _shares(only)
    if scorer in ("global_best", "global_mean", "scenario_best"):
        return _shares(held)
    if scorer not in ("knn_meta", "knn_shrunk"):
        return None
    wide, train = widened(bench), list(range(len(bench.columns)))
    near = baselines.neighbours(wide, train, len(train), knn_options(bench, scorer).get("k", 5))
    only = np.zeros_like(held)
    only[:, near] = held[:, near]
    count = only.sum(1, keepdims=True)
    if scorer == "knn_meta":
        return np.where(count > 0, _shares(only), _shares(held))
    return np.asarray((only + 5.0 * _shares(held)) / (count + 5.0))


def _shares(held: Array) -> Array:
    return np.asarray(held / np.maximum(held.sum(1, keepdims=True), 1e-300))


def evidence(
    entries: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], columns: Sequence[str], row: Array | None
) -> list[dict[str, Any]]:
    """Up to three records of a model: that of the chosen data set, then the weightiest, then in column order.

    Args:
        entries: of the model.
        chosen: the entry of the choice.
        columns: ``(C,)`` names of the scored columns.
        row: ``(C,)`` shares of the model's results, or None.
    """
    place = {c: j for j, c in enumerate(columns)}

    def share(entry: Mapping[str, Any]) -> float | None:
        j = place.get(entry["column"])
        return None if row is None else 0.0 if j is None else float(row[j])

    ordered = sorted(entries, key=lambda e: (e is not chosen, -(share(e) or 0.0), e["column"], e["key"]))
    return [
        {"key": e["key"], "dataset": dataset_name(e), "value": rounded(e["mean"]), "weight": rounded(share(e)),
         "source": e["sources"][0]}
        for e in ordered[:3]
    ]  # fmt: skip
