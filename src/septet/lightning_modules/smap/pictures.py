"""Pictures of an assignment: results by model and column, and what each test column remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.tensors import Query
from septet.lightning_modules.smap.charts import charts, figure
from septet.lightning_modules.smap.model import Prediction


def test_pictures(bench: Bench, part: Split, query: Query, found: Prediction) -> Iterator[tuple[str, Any]]:
    """Name and figure of each picture of a test batch; of a cold test, only the cold models' results are drawn."""
    if part.cold:
        values = bench.values.copy()
        values[:, query.columns.tolist()] = query.raw.cpu().numpy()
        bench = dataclasses.replace(bench, values=values)
    score = found.score.detach().cpu().double().numpy()
    yield "scores", _scores(bench, query, score)
    attention = found.attention.detach().cpu().mean(0).numpy()
    yield "attention", _attention(bench, query, attention)
    quantiles = found.quantiles.detach().cpu().double().numpy()
    yield from charts(bench, part, query.columns.tolist(), score, quantiles, attention)


def _scores(bench: Bench, query: Query, score: np.ndarray) -> Any:  # type: ignore[type-arg]
    """Predicted score against the measured result; the chosen model and the best are marked."""
    drawn = figure(6, 4.5)
    axes = drawn.subplots()
    columns = query.columns.tolist()
    for q, j in enumerate(columns[:6]):
        raw = query.raw[:, q].cpu().numpy()
        seen = np.isfinite(raw)
        if not seen.any():
            continue
        best = raw[seen].min()
        relative = raw / best if bench.kind == "error" else raw - best
        pick = int(np.argmin(np.where(seen, score[:, q], np.inf)))
        dots = axes.scatter(score[seen, q], relative[seen], s=14, alpha=0.7)
        axes.scatter(score[pick, q], relative[pick], s=60, marker="*", color=dots.get_facecolor()[0], edgecolor="0.2",
                     label=f"{bench.columns[j]}: {bench.models[pick]}")  # fmt: skip
    axes.set_xlabel("score (lower is better)")
    axes.set_ylabel("result / best result" if bench.kind == "error" else "accuracy below the best")
    axes.set_title("choice (star) against measurement, columns left out")
    axes.legend(fontsize=7)
    return drawn


def _attention(bench: Bench, query: Query, attention: np.ndarray) -> Any:  # type: ignore[type-arg]
    """Mean attention of the test columns over the train columns."""
    keep = np.flatnonzero(attention.sum(0) > 0)
    keep = keep[np.argsort(-attention[:, keep].sum(0), kind="stable")[:40]]
    keep = np.sort(keep)
    names = [bench.columns[j] for j in query.columns.tolist()][:30]
    drawn = figure(min(3 + 0.28 * len(keep), 14), 1.5 + 0.3 * len(names))
    axes = drawn.subplots()
    image = axes.imshow(attention[: len(names)][:, keep], aspect="auto", cmap="viridis", vmin=0)
    axes.set_xticks(range(len(keep)), [bench.columns[j] for j in keep], rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title("attention over remembered columns (own group hidden)")
    drawn.colorbar(image, ax=axes)
    return drawn
