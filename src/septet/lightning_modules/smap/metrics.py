"""The assignment metrics as a torchmetrics.Metric: sums over groups, safe under torch.distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from septet.lightning_modules.smap.scoring import column_metrics, group_mean

NAMES = ("regret1", "regret3", "lratio", "nregret", "top1", "top3", "ndcg5", "tau", "wtau", "pearson")


class AssignmentMetrics(Metric):
    """Mean within a group, then over groups, of :func:`scoring.column_metrics`; adds gregret1.

    Args:
        kind: ``error`` or ``accuracy``.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, kind: str = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, raw: Tensor, group: Tensor) -> None:
        """Add columns.

        Args:
            scores: ``(M, Q)``, lower is better.
            raw: ``(M, Q)`` results, NaN missing.
            group: ``(Q,)`` int64.
        """
        for j in range(scores.shape[1]):
            found = column_metrics(raw[:, j].cpu().numpy(), scores[:, j].detach().cpu().double().numpy(), self.kind)
            if found is not None:
                values = [np.nan if (v := found[name]) is None else float(v) for name in NAMES]
                row = torch.tensor([float(group[j]), *values], dtype=torch.float64)
                self.rows.append(row[None].to(self.device))  # type: ignore[union-attr,operator]

    def compute(self) -> dict[str, float]:
        """Metrics by name; empty without a column."""
        held: Any = self.rows
        if len(held) == 0:
            return {}
        rows = held if isinstance(held, Tensor) else torch.cat(list(held))
        listed = [(str(int(r[0])), dict(zip(NAMES, r[1:], strict=True))) for r in rows.cpu().tolist()]
        return group_mean(listed)
