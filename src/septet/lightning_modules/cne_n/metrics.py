"""Ranking metrics of dynamic link prediction: DyGLib's batch means, global AP and AUC, TGB's MRR and Hits@K."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


def _check(pred: Tensor, target: Tensor) -> None:
    """Raise ValueError for shapes, NaN, or a batch of one class."""
    if pred.shape != target.shape or pred.dim() != 1:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} must be two (n,) tensors")
    if bool(torch.isnan(pred).any()):
        raise ValueError("a score is NaN: the model has diverged; lower the learning rate")
    positives = int((target > 0).sum())
    if positives == 0 or positives == len(target):
        raise ValueError(f"{positives} positives among {len(target)} scores: both classes are needed")


def _ordered(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and all scores counted down to each distinct threshold, highest first, float64."""
    order = torch.argsort(pred, descending=True)
    score, hit = pred[order], (target[order] > 0).to(torch.float64)
    last = torch.ones_like(score, dtype=torch.bool)
    last[:-1] = score[1:] != score[:-1]
    counted = torch.arange(1, len(pred) + 1, dtype=torch.float64, device=pred.device)
    return hit.cumsum(0)[last], counted[last]


def average_precision(pred: Tensor, target: Tensor) -> Tensor:
    """Average precision: sum over distinct thresholds of the recall gained times the precision there.

    Args:
        pred: scores ``(n,)``, any monotone scale.
        target: 0 or 1 ``(n,)``.

    Returns:
        Scalar float64.

    Raises:
        ValueError: see the message.
    """
    _check(pred, target)
    hits, counted = _ordered(pred, target)
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return (gained * hits / counted).sum()


def area_under_roc(pred: Tensor, target: Tensor) -> Tensor:
    """Area under the ROC curve, ties counted by half; arguments and errors of :func:`average_precision`."""
    _check(pred, target)
    hits, counted = _ordered(pred, target)
    misses = counted - hits
    tpr = torch.cat([hits.new_zeros(1), hits / hits[-1]])
    fpr = torch.cat([hits.new_zeros(1), misses / misses[-1]])
    return torch.trapezoid(tpr, fpr)


class _BatchMean(Metric):
    """Unweighted mean over batches of a score of each batch, the short last batch included."""

    higher_is_better = True
    full_state_update = False
    total: Tensor
    batches: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("batches", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @staticmethod
    def score(pred: Tensor, target: Tensor) -> Tensor:
        """Score of one batch."""
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add one batch: scores ``(n,)`` and labels 0/1 ``(n,)``."""
        self.total += self.score(pred, target)
        self.batches += 1

    def compute(self) -> Tensor:
        """Mean over the batches seen."""
        return self.total / self.batches


class BatchMeanAveragePrecision(_BatchMean):
    """AP of each batch, averaged as DyGLib does; not comparable with AP over all scores."""

    score = staticmethod(average_precision)


class BatchMeanAUROC(_BatchMean):
    """AUC of each batch, averaged as DyGLib does."""

    score = staticmethod(area_under_roc)


class _Global(Metric):
    """A score over everything seen."""

    higher_is_better = True
    full_state_update = False
    pred: list[Tensor]
    target: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("pred", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    @staticmethod
    def score(pred: Tensor, target: Tensor) -> Tensor:
        """Score of all values."""
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add scores ``(n,)`` and labels ``(n,)``."""
        self.pred.append(pred)
        self.target.append(target)

    def compute(self) -> Tensor:
        """Score over all batches together."""
        return self.score(dim_zero_cat(self.pred), dim_zero_cat(self.target))


class GlobalAveragePrecision(_Global):
    """AP over all scores together."""

    score = staticmethod(average_precision)


class GlobalAUROC(_Global):
    """AUC over all scores together."""

    score = staticmethod(area_under_roc)


def ranks(pos: Tensor, neg: Tensor) -> Tensor:
    """Rank of each positive among its negatives, ``1 + (optimistic + pessimistic) / 2`` (TGB).

    Args:
        pos: scores ``(B,)``.
        neg: scores ``(B, K)``; NaN marks an absent negative.

    Returns:
        ``(B,)`` float64, 1 is best.

    Raises:
        ValueError: shapes disagree.
    """
    if pos.dim() != 1 or neg.dim() != 2 or len(pos) != len(neg):
        raise ValueError(f"pos {tuple(pos.shape)} and neg {tuple(neg.shape)} must be (B,) and (B, K)")
    optimistic = (neg > pos.unsqueeze(1)).sum(1)
    pessimistic = (neg >= pos.unsqueeze(1)).sum(1)
    return 1.0 + 0.5 * (optimistic + pessimistic).to(torch.float64)


class _RankMean(Metric):
    """Mean over positives of a function of the rank."""

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def gain(self, rank: Tensor) -> Tensor:
        """Contribution of each rank."""
        raise NotImplementedError

    def update(self, pos: Tensor, neg: Tensor) -> None:
        """Add positives ``(B,)`` with their negatives ``(B, K)``."""
        self.total += self.gain(ranks(pos, neg)).sum()
        self.count += len(pos)

    def compute(self) -> Tensor:
        """Mean over the positives seen."""
        return self.total / self.count


class MeanReciprocalRank(_RankMean):
    """Mean of ``1 / rank``."""

    def gain(self, rank: Tensor) -> Tensor:
        """``1 / rank``."""
        return 1.0 / rank


class HitsAtK(_RankMean):
    """Share of positives with rank at most k.

    Args:
        k: the cut, at least 1.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k={k} is below 1")
        self.k = k

    def gain(self, rank: Tensor) -> Tensor:
        """1 where the rank is within k."""
        return (rank <= self.k).to(torch.float64)
