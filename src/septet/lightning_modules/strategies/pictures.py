"""Pictures of a head plan: load of every device in every layer, beside contiguous blocks."""

from __future__ import annotations

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
    figure.colorbar(image, ax=axes[len(parts) - 1], label="load, tokens of one KV head")
    width = 0.8 / len(parts)
    for index, (name, loads) in enumerate(parts.items()):
        positions = [device + index * width for device in range(plan.n_devices)]
        axes[-1].bar(positions, loads.sum(dim=0).numpy(), width=width, label=name.split(",")[0])
    axes[-1].set(title="total per device (memory)", xlabel="device")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    return figure
