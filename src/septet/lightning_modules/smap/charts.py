"""Pictures that explain a choice: evidence table, Pareto front, regret beside the plain rules, calibration."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.targets import column_targets
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.scoring import column_metrics

Array = NDArray[np.float64]
_RULES = ("global_best", "global_mean", "scenario_best", "knn_meta", "knn_shrunk", "mf_side")


def figure(width: float, height: float) -> Any:
    """An empty figure without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def charts(
    bench: Bench, part: Split, columns: Sequence[int], score: Array, quantiles: Array, attention: Array
) -> Iterator[tuple[str, Any]]:
    """Name and figure of each picture of a test.

    Args:
        bench: the table.
        part: its split.
        columns: ``(Q,)`` the test columns.
        score: ``(M, Q)``, lower is better.
        quantiles: ``(M, Q, 3)`` of z at .1, .5 and .9.
        attention: ``(Q, C)`` over the remembered columns.
    """
    yield "assignment", assignment_table(bench, part, columns, score, attention)
    title = f"test part {part.name} only: {len(columns)} of {len(bench.columns)} columns"
    yield "regret_by_rule", regret_bars(regret_by_rule(bench, part, columns, score), title)
    if not part.cold:
        yield "calibration", calibration(bench, columns, quantiles)
    if bench.latency is not None and np.isfinite(bench.latency[:, list(columns)]).any():
        cost = np.nanmedian(np.where(np.isfinite(bench.latency), bench.latency, np.nan)[:, list(columns)], axis=1)
        yield "pareto", pareto(bench.models, score.mean(1), cost, "score (lower is better)")


def regret_by_rule(bench: Bench, part: Split, columns: Sequence[int], score: Array) -> dict[str, float]:
    """Mean regret of the first choice in percent (points) of SMAP and of the plain rules on the same columns."""
    found = {"SMAP": score}
    if not part.cold:
        found |= {name: baselines.predict(name, bench, part.train, columns) for name in _RULES}
    table = {}
    for name, values in found.items():
        rows = [column_metrics(bench.values[:, j], values[:, q], bench.kind) for q, j in enumerate(columns)]
        kept = [float(row["regret1"]) for row in rows if row is not None and row["regret1"] is not None]
        if kept:
            table[name] = float(np.mean(kept))
    return table


def regret_bars(table: Mapping[str, float], title: str = "") -> Any:
    """One bar per rule, the best first; the title says which columns were measured."""
    drawn = figure(5.5, 0.6 + 0.4 * max(len(table), 1))
    axes = drawn.subplots()
    names = sorted(table, key=lambda n: (table[n], n))
    bars = axes.barh(names, [table[n] for n in names], color=["#c44e52" if n == "SMAP" else "#8c9bb0" for n in names])
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("regret of the first choice (%, points for accuracies)")
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=9)
    return drawn


def calibration(bench: Bench, columns: Sequence[int], quantiles: Array) -> Any:
    """Share of test results below each predicted quantile against its nominal level."""
    z, _, mask = column_targets(bench.values[:, list(columns)], bench.kind)
    levels = (0.1, 0.5, 0.9)
    shares = [float((z[mask] <= quantiles[..., i][mask]).mean()) if mask.any() else np.nan for i in range(3)]
    drawn = figure(3.8, 3.8)
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(levels, shares, marker="o", color="#c44e52")
    for level, share in zip(levels, shares, strict=True):
        axes.annotate(f"{share:.2f}", (level, share), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal level", ylabel="share of test results below")
    return drawn


def front(score: Array, cost: Array) -> NDArray[np.intp]:
    """Rows that no other beats in both, in order of cost."""
    best, found = np.inf, []
    for i in np.lexsort((score, cost)):
        if np.isfinite(cost[i]) and score[i] < best:
            best = float(score[i])
            found.append(int(i))
    return np.array(found, dtype=np.intp)


def pareto(
    models: Sequence[str], score: Array, cost: Array, label: str, limit: float | None = None,
    starred: Sequence[bool] | None = None,
) -> Any:  # fmt: skip
    """Score against latency with the front and the limit where one is given.

    Args:
        models: ``(N,)`` names.
        score: ``(N,)``, lower is better.
        cost: ``(N,)`` milliseconds, NaN unknown.
        label: of the score's axis.
        limit: of latency.
        starred: ``(N,)`` the front in more than these two axes (an answer's stars); all names are then written.
    """
    drawn = figure(6, 4.2)
    axes = drawn.subplots()
    known, best = np.isfinite(cost), front(score, cost)
    red = best if starred is None else np.flatnonzero(np.asarray(starred, dtype=bool) & known)
    axes.scatter(cost[known], score[known], s=16, color="#8c9bb0")
    axes.step(cost[best], score[best], where="post", color="#c44e52", linewidth=1)
    axes.scatter(cost[red], score[red], s=30, color="#c44e52", zorder=3, marker="o" if starred is None else "*")
    for i in best if starred is None else np.flatnonzero(known):
        axes.annotate(models[i], (cost[i], score[i]), textcoords="offset points", xytext=(4, 4), fontsize=7)
    if starred is not None:
        axes.set_title(
            "stars: none better in score, latency and parameters at once; line: in the two drawn", fontsize=8
        )
    if limit is not None:
        axes.axvline(limit, color="0.3", linestyle="--", linewidth=1)
    if known.any() and (cost[known] > 0).all():
        axes.set_xscale("log")
    axes.set(xlabel="latency (ms)", ylabel=label)
    return drawn


def assignment_rows(
    bench: Bench, part: Split, columns: Sequence[int], score: Array, attention: Array, most: int = 8
) -> list[list[str]]:
    """Column, choice, its evidence, and the rejected favourite with the reason."""
    overall = baselines.predict("global_best", bench, part.train, columns)[:, 0] if not part.cold else score.mean(1)
    favourite = int(np.argmin(overall))
    rows = []
    for q, j in enumerate(list(columns)[:most]):
        order = np.argsort(score[:, q], kind="stable")
        pick, place = int(order[0]), int(np.flatnonzero(order == favourite)[0]) + 1
        near = [
            i for i in np.argsort(-attention[q], kind="stable")
            if attention[q, i] > 0 and i in set(part.train) and np.isfinite(bench.values[pick, i])
        ][:2]  # fmt: skip
        evidence = "; ".join(f"{bench.columns[i]} {bench.values[pick, i]:.4g}" for i in near) or "none"
        reason = "chosen" if place == 1 else f"{bench.models[favourite]}: place {place} here"
        rows.append([bench.columns[j], bench.models[pick], evidence, reason])
    return rows


def assignment_table(bench: Bench, part: Split, columns: Sequence[int], score: Array, attention: Array) -> Any:
    """The rows of :func:`assignment_rows` as a picture."""
    heads = ["data set", "assigned model", "evidence (weightiest results)", "favourite over all, why not"]
    return table_figure(heads, assignment_rows(bench, part, columns, score, attention))


def table_figure(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Text cells as a figure; long texts are wrapped, rows as high as their lines."""
    cells = [[textwrap.fill(text, 72) for text in row] for row in rows]
    lines = [max((cell.count("\n") + 1 for cell in row), default=1) for row in cells]
    total = sum(lines) + 1
    drawn = figure(12, 0.5 + 0.2 * max(total + len(cells), 3))
    axes = drawn.subplots()
    axes.axis("off")
    drawn_table = axes.table(
        cellText=cells or [[""] * len(heads)], colLabels=list(heads), cellLoc="left", bbox=[0, 0, 1, 1]
    )
    drawn_table.auto_set_font_size(False)
    drawn_table.set_fontsize(7.5)
    drawn_table.auto_set_column_width(list(range(len(heads))))
    for (row, _), cell in drawn_table.get_celld().items():
        cell.set_height(((lines[row - 1] if 0 < row <= len(lines) else 1) + 0.6) / (total + 0.6 * (len(cells) + 1)))
    return drawn


_MOST = 20
"""Rejections drawn; more are counted in the last row."""


def answer_rows(answer: Mapping[str, Any]) -> list[list[str]]:
    """Choices with their evidence, then rejections with their reasons; those left out are counted."""
    rows = [
        [f"{c['rank']}. {c['model']}" + (" *" if c["pareto"] else ""), c["dataset"], f"{c['predicted']:.5g}",
         "; ".join(f"{e['dataset']} {e['value']:.4g} ({e['source']})" for e in c["evidence"])]
        for c in answer["choices"]
    ]  # fmt: skip
    rejected = answer["rejected"]
    rows += [[f"rejected: {r['model']}", r["dataset"], "", r["reason"]] for r in rejected[:_MOST]]
    if len(rejected) > _MOST:
        rows.append([f"rejected: {len(rejected) - _MOST} more", "", "", "septet assign --explain lists all"])
    return rows


def answer_charts(answer: Mapping[str, Any], limit: float | None) -> Iterator[tuple[str, Any]]:
    """Pictures of an answer of ``septet assign``: choices and rejections with reasons, and the Pareto plot."""
    yield "assignment", table_figure(["model", "data set", "value", "evidence or reason"], answer_rows(answer))
    known = [c for c in answer["choices"] if c["latency_ms"] is not None]
    if known:
        score, cost = np.array([-c["utility"] for c in known]), np.array([c["latency_ms"] for c in known])
        names, stars = [c["model"] for c in known], [bool(c["pareto"]) for c in known]
        yield "pareto", pareto(names, score, cost, "utility lost (lower is better)", limit, stars)
