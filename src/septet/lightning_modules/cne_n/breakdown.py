"""Where a link predictor is right: known pairs or first meetings, young or old nodes, few or many negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from septet.lightning_modules.cne_n.metrics import area_under_roc, average_precision, ranks

EDGE_KINDS = ("repeated", "first")
"""Whether the two nodes of an event had met before its time."""
AGES = ("newest quarter", "younger", "older", "oldest quarter")
"""Quarters of the events by the age of their younger node."""
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of negatives at which the reciprocal rank is told."""


def edge_kinds(stream: Any) -> Tensor:
    """Index into ``EDGE_KINDS`` of every event ``(E,)``: 1 where its (undirected) pair has no earlier event.

    Args:
        stream: an event stream; ties do not count as earlier.
    """
    low, high = torch.minimum(stream.src, stream.dst), torch.maximum(stream.src, stream.dst)
    codes = (low * (stream.nodes + 1) + high).numpy()
    _, first, pair = np.unique(codes, return_index=True, return_inverse=True)
    start = stream.time[torch.from_numpy(first)][torch.from_numpy(pair)]
    kinds: Tensor = (start == stream.time).to(torch.int64)
    return kinds


def age_quarters(stream: Any, positions: Tensor) -> Tensor:
    """Index into ``AGES`` of the events at ``positions`` and -1 elsewhere, ``(E,)``.

    The age of a node is the time since its first event.
    """
    born = torch.full((stream.nodes + 1,), stream.time[-1].item(), dtype=stream.time.dtype)
    for ends in (stream.src, stream.dst):
        born.scatter_reduce_(0, ends, stream.time, "amin")
    age = stream.time - torch.maximum(born[stream.src], born[stream.dst])
    out = torch.full_like(stream.src, -1)
    cuts = np.quantile(age[positions].numpy(), (0.25, 0.5, 0.75))
    out[positions] = torch.from_numpy(np.searchsorted(cuts, age[positions].numpy(), "left"))
    return out


class GroupedScores(Metric):
    """AP and AUC over the events of each group, every event against its own negatives.

    Args:
        groups: number of groups.
    """

    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    group: list[Tensor]

    def __init__(self, groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("group", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, group: Tensor) -> None:
        """Add events: scores ``(B, 1+K)`` with NaN for an absent negative, groups ``(B,)``, -1 for none."""
        self.scores.append(scores)
        self.group.append(group)

    def compute(self) -> Tensor:
        """``(G, 3)``: AP, AUC and the number of events; NaN for a group without events."""
        scores, group = dim_zero_cat(self.scores), dim_zero_cat(self.group)
        target = torch.zeros_like(scores, dtype=torch.int64)
        target[:, 0] = 1
        out = torch.full((self.groups, 3), torch.nan, dtype=torch.float64, device=scores.device)
        for g in range(self.groups):
            mask = (group == g).unsqueeze(1) & ~torch.isnan(scores)
            number = int((group == g).sum())
            out[g, 2] = number
            if number:
                pred, truth = scores[mask], target[mask]
                out[g, 0], out[g, 1] = average_precision(pred, truth), area_under_roc(pred, truth)
        return out


class ReciprocalRankByCount(Metric):
    """Mean reciprocal rank among the first k of each event's negatives, taken in one fixed random order."""

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(len(COUNTS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(COUNTS), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pos: Tensor, neg: Tensor) -> None:
        """Add events ``(B,)`` with their negatives ``(B, K)``; events with fewer than k are left out of k."""
        order = torch.randperm(neg.shape[1], generator=torch.Generator().manual_seed(0)).to(neg.device)
        present = (~torch.isnan(neg)).sum(1)
        front = torch.argsort(torch.isnan(neg[:, order]).to(torch.int8), dim=1, stable=True)
        neg = neg[:, order].gather(1, front)
        for place, k in enumerate(COUNTS):
            enough = present >= k
            if k <= neg.shape[1] and bool(enough.any()):
                self.total[place] += (1.0 / ranks(pos[enough], neg[enough, :k])).sum()
                self.count[place] += enough.sum()

    def compute(self) -> Tensor:
        """``(len(COUNTS),)``; NaN where no event had as many negatives."""
        return self.total / torch.where(self.count > 0, self.count, torch.nan)
