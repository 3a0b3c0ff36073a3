"""Pictures of a tested link predictor, by matplotlib's object interface."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BLUE, ORANGE, GREY = "#1b6ca8", "#e07a1f", "#8a8f98"


def draw(history: list[dict[str, float]], tally: Tensor, data: Any) -> Iterator[tuple[str, Any]]:
    """Names and figures of everything that can be drawn.

    Args:
        history: validation metrics per epoch.
        tally: co-neighbour counts ``(2, bins)`` of positives and negatives.
        data: the data module, or None.
    """
    if history:
        yield "ap_auc_by_epoch", by_epoch(history)
    if int(tally.sum()) > 0:
        yield "co_neighbour_counts", co_neighbours(tally)
    if data is None:
        return
    yield "events_over_time", events_over_time(data.stream.time, data.splits.val_time, data.splits.test_time)
    if data.states is not None:
        yield "table_occupancy", occupancy(data.states.memory, data.full_index)


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
    """Validation AP and AUC by epoch, all events and events of new nodes."""
    figure, axis = _figure("Validation by epoch", "epoch", "score")
    epochs = [h["epoch"] + 1 for h in history]
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
    degree = torch.bincount(index.key // index.radix, minlength=memory.num_nodes + 1)[1:].float()
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
