"""Pictures of a head plan, of the loads under it, and of what placement gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from septet.kernels.placement import HeadPlan, contiguous_plan


def plan_figure(plan: HeadPlan, head_loads: Tensor, weight_cost: float = 0.0) -> Any:
    """Heat maps layers x devices before and after, and the totals per device as bars.

    Args:
        plan: the placement.
        head_loads: ``(L, H)`` loads of the whole batch.
        weight_cost: of one replica, in the same unit.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    parts = {}
    if plan.n_kv_heads % plan.n_devices == 0:
        plain = contiguous_plan(plan.n_layers, plan.n_kv_heads, plan.n_devices, plan.batch_size)
        parts[f"contiguous, U {plain.utilisation(head_loads, weight_cost):.2f}"] = plain.loads(head_loads, weight_cost)
    parts[f"plan, U {plan.utilisation(head_loads, weight_cost):.2f}"] = plan.loads(head_loads, weight_cost)
    top = max(float(loads.max()) for loads in parts.values())
    figure = Figure(figsize=(3.2 * len(parts) + 3.2, 3.4))
    axes = figure.subplots(1, len(parts) + 1)
    for axis, (name, loads) in zip(axes, parts.items(), strict=False):
        image = axis.imshow(loads.numpy(), aspect="auto", vmin=0, vmax=top, cmap="viridis")
        axis.set(title=name, xlabel="device", ylabel="layer", xticks=range(plan.n_devices))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes[len(parts) - 1], label="load, tokens of one KV head")
    width = 0.8 / len(parts)
    for index, (name, loads) in enumerate(parts.items()):
        positions = [device + index * width for device in range(plan.n_devices)]
        axes[-1].bar(positions, loads.sum(dim=0).numpy(), width=width, label=name.split(",")[0])
    axes[-1].set(title="total per device (memory)", xlabel="device", xticks=range(plan.n_devices))
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    return figure


def plan_drawing(plan: HeadPlan) -> Any:
    """The plan itself: one cell per layer and KV head in its device's colour, cut where copies share the rows."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import MaxNLocator

    colours = [mpl.colormaps["tab10" if plan.n_devices <= 10 else "tab20"](d % 20) for d in range(plan.n_devices)]
    figure = Figure(figsize=(1.8 + 0.62 * plan.n_kv_heads, 1.4 + 0.17 * max(6, plan.n_layers)))
    axis = figure.subplots()
    for index, layer in enumerate(plan.layers):
        for number, head in enumerate(layer):
            for device, start, stop in head:
                left, width = number + 0.94 * start / plan.batch_size, 0.94 * (stop - start) / plan.batch_size
                axis.add_patch(Rectangle((left, index - 0.44), width, 0.88, color=colours[device], linewidth=0))
    title = f"plan: {plan.n_devices} devices, batch {plan.batch_size}, {sum(plan.copies)} copies"
    axis.set(xlim=(0, plan.n_kv_heads), ylim=(plan.n_layers - 0.5, -0.5), xlabel="KV head (width: rows)", title=title)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(ylabel="layer", xticks=[h + 0.47 for h in range(plan.n_kv_heads)])
    axis.set_xticklabels([str(h) for h in range(plan.n_kv_heads)])
    shown = [Patch(color=colour, label=f"device {device}") for device, colour in enumerate(colours)]
    axis.legend(handles=shown, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.tight_layout()
    return figure


def copies_figure(curves: Mapping[str, Sequence[float]], title: str) -> Any:
    """Utilisation against copies per layer, one curve per profile.

    Args:
        curves: values at 0, 1, 2, ... copies.
        title: says devices and batch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6))
    axis = figure.subplots()
    for name, values in curves.items():
        axis.plot(range(len(values)), list(values), marker="o", label=name)
    most = max(len(values) for values in curves.values())
    axis.set(xlabel="most copies per layer", ylabel="utilisation (KV alone)", ylim=(0, 1.03), title=title)
    axis.set_xticks(range(most))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def speedup_figure(
    batches: Sequence[int], curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], title: str
) -> Any:
    """Simulated speed-up over standard TP against batch, without weights, with them, and of the whole step.

    Args:
        batches: batch sizes.
        curves: per label the three lines of :func:`septet.lightning_modules.strategies.sweeps.speedups`.
        title: says profile, model and that it is simulated.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.4))
    parts = ("KV alone (no weights)", "attention, weights included", "whole step")
    axes = figure.subplots(1, 3, sharey=True)
    for index, (axis, part) in enumerate(zip(axes, parts, strict=True)):
        for label, lines in curves.items():
            axis.plot(list(batches), list(lines[index]), marker="o", markersize=3, label=label)
        axis.set_xscale("log", base=2)
        axis.set(title=part, xlabel="batch")
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("speed-up over standard TP (simulated)")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


def met_figure(planned: Sequence[float] | None, met: Mapping[str, Sequence[float]]) -> Any:
    """KV bytes of each process after the prompts: as planned from the profile, and as met under each policy."""
    from matplotlib.figure import Figure

    bars = {**({"planned": planned} if planned is not None else {}), **met}
    figure = Figure(figsize=(5.2, 3.2))
    axis = figure.subplots()
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        axis.bar([d + index * width for d in range(len(values))], [v / 2**20 for v in values], width, label=name)
    devices = len(next(iter(bars.values())))
    axis.set(xlabel="process", ylabel="KV MiB per batch", title="KV bytes per process", xticks=range(devices))
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def predicted_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Measured against simulated speed-up over standard TP, attention and whole step.

    Args:
        rows: of ``benchmarks/fairkv/run_decode.py``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.9))
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    groups = sorted({(row["profile"], row["world"]) for row in rows})
    for axis, part in zip(axes, ("attention", "step"), strict=True):
        for name, world in groups:
            chosen = [row for row in rows if (row["profile"], row["world"]) == (name, world)]
            predicted = [row[f"simulated_{part}_ratio"] for row in chosen]
            label = f"{name}, {world} GPUs"
            axis.scatter(predicted, [row[f"{part}_ratio"] for row in chosen], s=18, label=label)
        most = 1.03 * max(row["simulated_attention_ratio"] for row in rows)
        axis.plot([0.8, most], [0.8, most], color="grey", linewidth=0.8)
        axis.plot([0.8, most], [0.68, 0.85 * most], color="grey", linewidth=0.8, linestyle="--")
        axis.set(title=f"{part} (dashed: 85 % of the simulated)", xlabel="simulated speed-up over standard TP")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("measured speed-up over standard TP")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    return figure
