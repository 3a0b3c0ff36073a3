"""Figures of the report: needle heat map, accuracy against cache size, budgets over the stages, kept tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from septet.kernels.cache import CompressedCache
from septet.lightning_modules.cake.evaluation import without_capacity


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def needle_heat_map(grid: Tensor, lengths: list[int], title: str, prompts: Mapping[int, float] | None = None) -> Any:
    """Score by depth (rows) and context length (columns), grid ``(depth bins, lengths)`` in [0, 1].

    Args:
        grid: mean scores.
        lengths: ``context_length`` of each column, the longest prompt allowed.
        title: of the figure.
        prompts: by length the mean of the prompts' real tokens, shown below.
    """
    figure, axes = _figure(2.4 + 0.9 * len(lengths), 3.6)
    image = axes.imshow(grid.numpy(), vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    bins, real = grid.shape[0], prompts or {}
    axes.set_xticks(range(len(lengths)), [f"{n}\n({real[n]:,.0f})" if n in real else str(n) for n in lengths])
    axes.set_yticks(range(bins), [f"{100 * i // bins}-{100 * (i + 1) // bins} %" for i in range(bins)])
    axes.set_xlabel("context_length, tokens" + ("\n(mean prompt)" if real else ""))
    axes.set_ylabel("depth of the needle")
    axes.set_title(title)
    for (i, j), value in np.ndenumerate(grid.numpy()):
        if not np.isnan(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, label="score")
    return figure


def _style(index: int) -> dict[str, Any]:
    """Line of the n-th policy: open markers of falling size, so that coinciding points all stay visible."""
    return {
        "marker": "oDs^v*"[index % 6],
        "markersize": max(4.0, 11.0 - 1.2 * index),
        "markerfacecolor": "none",
        "linestyle": ("-", "--", "-.", ":")[index % 4],
    }


def accuracy_against_bytes(table: Mapping[str, Mapping[str, float]]) -> Any:
    """One line per policy over its capacities; the full cache is the cross on the dashed line."""
    figure, axes = _figure(6, 4)
    curves: dict[str, list[tuple[float, float]]] = {}
    for label, values in table.items():
        if label == "full":
            axes.axhline(values["accuracy"], color="black", linestyle="--", linewidth=0.8)
            style = {"marker": "X", "markersize": 9, "linestyle": "none"}
            axes.plot(values["kv_bytes"] / 1e6, values["accuracy"], color="black", label="full", **style)
        else:
            curves.setdefault(without_capacity(label), []).append((values["kv_bytes"] / 1e6, values["accuracy"]))
    for index, (name, points) in enumerate(curves.items()):
        points.sort()
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, **_style(index))
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("live keys and values after the prompt, MB")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.05, 1.05)
    axes.legend(fontsize=8)
    return figure


def _plain_ticks(axis: Any) -> None:
    """Ticks 1, 2, 5, 10, ... as plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def stage_budgets(cache: CompressedCache, title: str, row: int = 0) -> Any:
    """Stored tokens per head of each layer (lines, coloured by depth) after each stage of the cascade."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = _figure(6, 4)
    stages = cache.stages[row]
    shades = ScalarMappable(Normalize(0, max(1, len(stages) - 1)), colormaps["viridis"])
    for layer in range(len(stages)):
        stored = [stages[m][1][layer] for m in range(layer, len(stages))]
        axes.plot(
            range(layer + 1, len(stages) + 1),
            stored,
            color=shades.cmap(layer / max(1, len(stages) - 1)),
            marker="o",
            markersize=3,
        )
    axes.set_xlabel("layers read")
    axes.set_xlim(0.5, len(stages) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("stored tokens per head")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_title(title)
    bar = figure.colorbar(shades, ax=axes, label="layer")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)
    return figure


def kept_raster(caches: Mapping[str, CompressedCache], row: int = 0) -> Any:
    """Share of heads that keep each position (columns) in each layer (rows), one panel per cache."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 1.5 * len(caches)), layout="constrained")
    axes = figure.subplots(len(caches), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (title, cache) in zip(axes, caches.items(), strict=True):
        image = panel.imshow(
            _kept_share(cache, row), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=1
        )
        panel.set_ylabel("layer")
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.set_title(title, fontsize=9)
    axes[-1].set_xlabel("position")
    figure.colorbar(image, ax=axes.tolist(), label="share of heads that keep it")
    return figure


def _kept_share(cache: CompressedCache, row: int) -> Any:
    """``(layers, positions)`` in [0, 1]."""
    length = cache.prompt_lengths[row]
    raster = np.zeros((cache.n_layers, length))
    for layer in range(cache.n_layers):
        for head in range(cache.n_kv_heads):
            kept = cache.positions(layer, row, head).cpu().numpy()
            raster[layer, kept[kept < length]] += 1 / cache.n_kv_heads
    return raster


def layer_budgets(caches: Mapping[str, CompressedCache], row: int = 0) -> Any:
    """Stored tokens per layer: the mean over the heads as a line, the range of the heads as a band."""
    figure, axes = _figure(6, 4)
    for index, (title, cache) in enumerate(caches.items()):
        lengths = np.array([cache.lengths(layer)[row].numpy() for layer in range(cache.n_layers)])
        (line,) = axes.plot(range(len(lengths)), lengths.mean(1), label=title, **_style(index))
        axes.fill_between(range(len(lengths)), lengths.min(1), lengths.max(1), color=line.get_color(), alpha=0.15)
    axes.set_xlabel("layer")
    axes.set_ylabel("stored tokens per head")
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return figure


def prompt_pictures(caches: Mapping[str, CompressedCache]) -> Iterator[tuple[str, Any]]:
    """Names and figures of one prompt's caches by label.

    ``kept_tokens`` (layer by position), ``budget_by_layer`` and, where the policy cascades, ``stages_<label>``.
    """
    if not caches:
        return
    yield "kept_tokens", kept_raster(caches)
    yield "budget_by_layer", layer_budgets(caches)
    for label, cache in caches.items():
        if cache.policies[0].cascading:
            yield f"stages_{label}", stage_budgets(cache, label)
