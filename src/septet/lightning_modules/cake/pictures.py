"""Figures of the report: needle heat map, accuracy against cache size, budgets over the stages, kept tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from septet.kernels.cache import CompressedCache


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def needle_heat_map(grid: Tensor, lengths: list[int], title: str) -> Any:
    """Score by depth (rows) and context length (columns), grid ``(depth bins, lengths)`` in [0, 1]."""
    figure, axes = _figure(1.6 + 0.9 * len(lengths), 3.4)
    image = axes.imshow(grid.numpy(), vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    bins = grid.shape[0]
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_yticks(range(bins), [f"{100 * i // bins}-{100 * (i + 1) // bins} %" for i in range(bins)])
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("depth of the needle")
    axes.set_title(title)
    for (i, j), value in np.ndenumerate(grid.numpy()):
        if not np.isnan(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, label="score")
    return figure


def accuracy_against_bytes(table: Mapping[str, Mapping[str, float]]) -> Any:
    """One line per policy over its capacities; the full cache is the dashed line."""
    figure, axes = _figure(6, 4)
    curves: dict[str, list[tuple[float, float]]] = {}
    for label, values in table.items():
        if label == "full":
            axes.axhline(values["accuracy"], color="black", linestyle="--", label="full")
        else:
            curves.setdefault(label.split("-")[0], []).append((values["kv_bytes"], values["accuracy"]))
    for name, points in curves.items():
        points.sort()
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("live keys and values after the prompt, bytes")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=8)
    return figure


def stage_budgets(cache: CompressedCache, title: str, row: int = 0) -> Any:
    """Stored tokens per layer (lines) after each stage of the cascade."""
    figure, axes = _figure(6, 4)
    stages = cache.stages[row]
    for layer in range(len(stages)):
        axes.plot(
            range(layer, len(stages)), [stages[m][1][layer] for m in range(layer, len(stages))], label=f"layer {layer}"
        )
    axes.set_xlabel("stage (layers read)")
    axes.set_ylabel("stored tokens")
    axes.set_yscale("log")
    axes.set_title(title)
    if len(stages) <= 10:
        axes.legend(fontsize=7)
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
    for title, cache in caches.items():
        lengths = np.array([cache.lengths(layer)[row].numpy() for layer in range(cache.n_layers)])
        (line,) = axes.plot(range(len(lengths)), lengths.mean(1), marker=".", label=title)
        axes.fill_between(range(len(lengths)), lengths.min(1), lengths.max(1), color=line.get_color(), alpha=0.15)
    axes.set_xlabel("layer")
    axes.set_ylabel("stored tokens per head")
    axes.set_ylim(bottom=0)
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
