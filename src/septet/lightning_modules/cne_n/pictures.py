"""Pictures of a tested link predictor, by matplotlib's object interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from septet.lightning_modules.cne_n.breakdown import AGES, COUNTS, EDGE_KINDS

BLUE, ORANGE, GREY = "#1b6ca8", "#e07a1f", "#8a8f98"


class Found(NamedTuple):
    """What a test left behind.

    Attributes:
        history: validation metrics per epoch.
        tally: co-neighbour counts ``(2, bins)`` of positives and negatives.
        values: test metrics by name, without ``test/``.
        kinds: AP, AUC and number ``(2, 3)`` of repeated and first meetings, or None.
        ages: the same ``(4, 3)`` by age of the younger node, or None.
        counts: mean reciprocal rank by number of negatives, or None.
    """

    history: list[dict[str, float]]
    tally: Tensor
    values: dict[str, float]
    kinds: Tensor | None
    ages: Tensor | None
    counts: Tensor | None


def draw(found: Found, data: Any) -> Iterator[tuple[str, Any]]:
    """Names and figures of everything that can be drawn.

    Args:
        found: what the test left behind.
        data: the data module, or None.
    """
    if found.history:
        yield "ap_auc_by_epoch", by_epoch(found.history)
    if "ap" in found.values:
        base = str(getattr(data, "negatives", "random"))
        yield "ap_by_negatives_and_nodes", by_strategy(found.values, base)
    if found.kinds is not None:
        yield "repeated_and_first_meetings", by_group("Known pairs against first meetings", EDGE_KINDS, found.kinds)
    if found.ages is not None:
        yield "ap_by_node_age", by_group("By age of the younger node", AGES, found.ages)
    if found.counts is not None and bool(torch.isfinite(found.counts).any()):
        yield "mrr_by_number_of_negatives", by_count(found.counts)
    if int(found.tally.sum()) > 0:
        yield "co_neighbour_counts", co_neighbours(found.tally)
    if data is None:
        return
    yield "events_over_time", events_over_time(data.stream.time, data.splits.val_time, data.splits.test_time)
    if data.states is not None:
        yield "table_occupancy", occupancy(data.states.memory, data.full_index)


def by_strategy(values: dict[str, float], base: str) -> Any:
    """Test AP and AUC by kind of negatives and for events of new nodes, as bars with their values."""
    names = {"": base, "random_": "random", "historical_": "historical", "inductive_": "inductive"}
    names["new_"] = f"new nodes, {base}"
    shown = {label: prefix for prefix, label in names.items() if f"{prefix}ap" in values}
    rows = [[values[f"{prefix}{metric}"] for metric in ("ap", "auc")] for prefix in shown.values()]
    return _bars("Test by negatives and nodes (batch means)", list(shown), rows)


def by_group(title: str, names: Sequence[str], scores: Tensor) -> Any:
    """AP and AUC of groups of test events, with their numbers below."""
    kept = [g for g in range(len(names)) if scores[g, 2] > 0]
    labels = [f"{names[g]}\n{int(scores[g, 2]):,} events" for g in kept]
    return _bars(f"{title} (over all scores)", labels, [scores[g, :2].tolist() for g in kept])


def _bars(title: str, labels: list[str], rows: list[list[float]]) -> Any:
    """Pairs of bars, AP and AUC."""
    figure, axis = _figure(title, "", "score")
    for shift, (name, colour) in enumerate((("AP", BLUE), ("AUC", ORANGE))):
        places = [i + 0.4 * shift - 0.2 for i in range(len(rows))]
        bars = axis.bar(places, [r[shift] for r in rows], 0.38, color=colour, label=name)
        axis.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylim(0, 1.24)
    axis.legend(frameon=False, ncols=2, loc="upper right")
    return figure


def by_count(counts: Tensor) -> Any:
    """Mean reciprocal rank against the number of negatives per event."""
    figure, axis = _figure("MRR by number of negatives", "negatives per event", "mean reciprocal rank")
    points = [(k, v) for k, v in zip(COUNTS, counts.tolist(), strict=True) if v == v]
    axis.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4)
    for k, value in points:
        axis.annotate(f"{value:.3f}", (k, value), textcoords="offset points", xytext=(0, 6), fontsize=8, ha="center")
    axis.set_xscale("log")
    axis.set_xticks([k for k, _ in points], [str(k) for k, _ in points])
    axis.minorticks_off()
    axis.set_ylim(0, 1.05)
    return figure


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """A figure with one labelled axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.add_subplot()
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    return figure, axis


def by_epoch(history: list[dict[str, float]]) -> Any:
    """Validation AP and AUC by epoch (from 0, as the log counts), all events and events of new nodes."""
    figure, axis = _figure("Validation by epoch", "epoch", "score")
    epochs = [int(h["epoch"]) for h in history]
    styles = {"ap": (BLUE, "-"), "auc": (ORANGE, "-"), "new_ap": (BLUE, "--"), "new_auc": (ORANGE, "--")}
    for name, (colour, line) in styles.items():
        if all(name in h for h in history):
            axis.plot(epochs, [h[name] for h in history], line, color=colour, marker="o", markersize=4, label=name)
    axis.set_xticks(epochs if len(epochs) <= 20 else epochs[:: len(epochs) // 10])
    axis.legend(frameon=False)
    return figure


def co_neighbours(tally: Tensor) -> Any:
    """How many slots of the long table two ends share: events against negatives."""
    figure, axis = _figure(
        "Common neighbours in the long table", "co-neighbour count of the asked pair", "share of pairs"
    )
    last = int(tally.sum(0).nonzero().max()) + 1
    share = tally[:, :last] / tally.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(last)
    axis.bar((places - 0.2).tolist(), share[0].tolist(), 0.4, color=BLUE, label="events")
    axis.bar((places + 0.2).tolist(), share[1].tolist(), 0.4, color=ORANGE, label="negatives")
    axis.set_yscale("log")
    axis.legend(frameon=False)
    return figure


def occupancy(memory: Any, index: Any) -> Any:
    """Filled slots of both tables by degree of the node."""
    figure, axis = _figure("Table occupancy by degree", "degree of the node (events)", "filled share of the table")
    degree = index.degrees()[1:].float()
    filled = memory.occupancy()[1:].float()
    edges = torch.unique(torch.logspace(0, float(degree.max().clamp(min=2).log10()), 13).round())
    for column, (size, colour, label) in enumerate(
        [(memory.short, ORANGE, f"short, {memory.short} slots"), (memory.long, BLUE, f"long, {memory.long} slots")]
    ):
        points = []
        for low, high in pairwise(edges.tolist()):
            inside = (degree >= low) & (degree < high + (high == float(edges[-1])))
            if bool(inside.any()):
                points.append((float(degree[inside].mean()), float(filled[inside, column].mean()) / size))
        axis.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=label)
    axis.set_xscale("log")
    axis.set_ylim(0, 1.02)
    axis.legend(frameon=False)
    return figure


def events_over_time(time: Tensor, val_time: float, test_time: float) -> Any:
    """Events over time with the lines of the split."""
    figure, axis = _figure("Events over time", "time since the first event [days]", "events")
    start = float(time[0])
    days = (time.double() - start) / 86_400
    axis.hist(days.tolist() if len(days) < 200_000 else days[:: len(days) // 100_000].tolist(), bins=80, color=GREY)
    for cut, label in ((val_time, "validation"), (test_time, "test")):
        axis.axvline((cut - start) / 86_400, color=ORANGE, linestyle="--")
        axis.annotate(
            label, ((cut - start) / 86_400, axis.get_ylim()[1]), rotation=90, va="top", ha="right", fontsize=8
        )
    return figure
