"""Curves of a run as PNG bytes."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[int, float]]
Curves = Mapping[str, Points]


def group_curves(curves: Curves) -> dict[str, dict[str, Points]]:
    """Curves of one quantity together: ``train/loss`` and ``val/loss`` share a panel named ``loss``."""
    groups: dict[str, dict[str, Points]] = defaultdict(dict)
    for name, points in curves.items():
        stage, _, quantity = name.partition("/")
        quantity = (quantity or stage).removesuffix("_epoch").removesuffix("_step")
        if len(points) > 1:  # a test alone has one point each: no curve
            groups[quantity][name] = points
    return dict(groups)


def _order(panel: tuple[str, Curves]) -> tuple[bool, bool, bool, str]:
    """The loss first, then what changes and is evaluated; constants last."""
    name, members = panel
    evaluated = any(n.startswith(("val/", "test/")) for n in (name, *members))
    constant = all(len({value for _, value in points}) == 1 for points in members.values())
    return name.rpartition("/")[2] != "loss", constant, not evaluated, name


def curve_figure(panels: Mapping[str, Curves]) -> bytes | None:
    """One picture with a panel per quantity: at most nine, see :func:`_order`; None without any."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = sorted(panels.items(), key=_order)[:9]
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False)
    for axis, (quantity, members) in zip(axes.flat, groups, strict=False):
        for name, points in sorted(members.items()):
            marker = "o" if len(points) < 30 else None
            axis.plot([p[0] for p in points], [p[1] for p in points], label=name, marker=marker, markersize=3)
        axis.set_title(quantity, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
