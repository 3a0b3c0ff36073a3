"""What a run shows over time: AP by epoch beside a baseline's, and the share of the distillation gradient."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Point = tuple[int, float]


def gradient_share(distillation: Tensor, detection: Tensor, maps: Sequence[Tensor]) -> Tensor | None:
    """Norm of the distillation gradient over that of the detection gradient at the student's tap.

    Args:
        distillation: loss of one term, a scalar.
        detection: the detector's own loss (or any other), a scalar.
        maps: tapped maps ``(N, C, H, W)`` of the graph.

    Returns:
        A scalar, or None where no gradient reaches the maps (or there are none).
    """
    levels = [x for x in maps if x.requires_grad]
    if not levels or not distillation.requires_grad or not detection.requires_grad:
        return None
    norms = []
    for loss in (distillation, detection):
        grads = torch.autograd.grad(loss, levels, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in grads if g is not None]
        norms.append(torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(()).float())
    return norms[0] / norms[1] if norms[1] > 0 else None


def read_ap(path: Path) -> list[Point]:
    """(epochs trained, validation AP) from the ``metrics.csv`` of a run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without the columns ``epoch`` and ``val/ap``.
    """
    file = path / "metrics.csv" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no metrics at {file}; baseline is a run directory or a metrics.csv")
    with file.open(newline="") as handle:
        reader = csv.DictReader(handle)
        missing = {"epoch", "val/ap"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{file} has no column {sorted(missing)}: the baseline must be a detection run")
        rows = [(row["epoch"], row["val/ap"]) for row in reader]
    return sorted({int(float(epoch)) + 1: float(ap) for epoch, ap in rows if epoch and ap}.items())


class Curves:
    """Validation AP by epoch beside a baseline's, and each term's figures on the first batch of every epoch.

    Args:
        baseline: run directory or ``metrics.csv`` of the other arm; None for none. Read by :meth:`open`.

    Attributes:
        ap: (epochs trained, validation AP).
        terms: one row for each (term, epoch): term, epoch, loss and r of each level, gradient share.
    """

    def __init__(self, baseline: str | None = None) -> None:
        self.baseline_path, self.baseline = baseline, list[Point]()
        self.ap: list[Point] = []
        self.terms: list[dict[str, Any]] = []

    def open(self) -> None:
        """Read the baseline.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a baseline without AP.
        """
        self.baseline = read_ap(Path(self.baseline_path)) if self.baseline_path is not None else []

    def add(self, epoch: int, ap: float) -> None:
        """Keep the AP after ``epoch`` epochs; the last value of an epoch counts, an undefined AP (-1) does not."""
        if ap >= 0:
            self.ap = sorted({**dict(self.ap), epoch: ap}.items())

    def note(self, term: str, epoch: int, losses: Sequence[float], weight: float | None, share: float | None) -> None:
        """Keep a term's figures at the start of an epoch.

        Args:
            term: name.
            epoch: counted from 1.
            losses: weighted loss of each level.
            weight: of a Pearson term, whose loss is weight * (1 - r) but for (m-1)/m; None for other terms.
            share: distillation over detection gradient norm.
        """
        r = [1 - x / weight for x in losses] if weight else []
        kept = [row for row in self.terms if (row["term"], row["epoch"]) != (term, epoch)]
        self.terms = [*kept, {"term": term, "epoch": epoch, "loss": list(losses), "r": r, "share": share}]

    def state(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {"ap": [list(point) for point in self.ap], "terms": self.terms}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.ap = [(int(epoch), float(ap)) for epoch, ap in state.get("ap", [])]
        self.terms = list(state.get("terms", []))

    def ap_figure(self, label: str) -> Any:
        """A matplotlib figure of AP by epoch, both arms.

        Args:
            label: of this run.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.0, 3.4))
        axis = figure.add_subplot()
        for name, points, style in ((label, self.ap, "o-"), ("baseline", self.baseline, "s--")):
            if points:
                axis.plot([p[0] for p in points], [p[1] for p in points], style, label=name, markersize=4)
        _finish(axis, "validation AP")
        return figure

    def terms_figure(self) -> Any:
        """Loss and r of each level and the gradient share, by epoch."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12.6, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        for term in dict.fromkeys(row["term"] for row in self.terms):
            rows = sorted((row for row in self.terms if row["term"] == term), key=lambda row: row["epoch"])
            epochs = [row["epoch"] for row in rows]
            for axis, key in ((axes[0], "loss"), (axes[1], "r")):
                for level in range(len(rows[0][key])):
                    values = [row[key][level] for row in rows]
                    axis.plot(epochs, values, "o-", label=f"{term} level {level}", markersize=3)
            shares = [(row["epoch"], row["share"]) for row in rows if row["share"] is not None]
            axes[2].plot([x[0] for x in shares], [x[1] for x in shares], "o-", label=term, markersize=3)
        for axis, title in zip(axes, ("weighted loss", "Pearson r", "gradient KD : detection"), strict=True):
            _finish(axis, title)
        if axes[2].lines and all(y > 0 for line in axes[2].lines for y in line.get_ydata()):
            axes[2].set_yscale("log")
        return figure


def _finish(axis: Any, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel=title)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
