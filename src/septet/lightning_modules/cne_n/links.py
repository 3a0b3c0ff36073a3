"""What every link-prediction module shares: steps, metrics, predictions, pictures."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import MetricCollection

from septet.lightning_modules.cne_n import pictures
from septet.lightning_modules.cne_n.breakdown import (
    AGES,
    EDGE_KINDS,
    GroupedScores,
    ReciprocalRankByCount,
    age_quarters,
    edge_kinds,
)
from septet.lightning_modules.cne_n.features import FeatureTables
from septet.lightning_modules.cne_n.metrics import (
    BatchMeanAUROC,
    BatchMeanAveragePrecision,
    GlobalAUROC,
    GlobalAveragePrecision,
    HitsAtK,
    MeanReciprocalRank,
)
from septet.lightning_modules.task import Task

PARTS = ("", "new_", "random_", "historical_", "inductive_")
"""What the names of metrics begin with: all events, events of new nodes, all events with other negatives."""
COUNT_BINS = 64
BREAKDOWN_EVENTS = 20_000_000
"""Longest stream whose events are told apart by kind and age."""


class LinkPrediction(Task):
    """Base of the link predictors: a subclass gives :meth:`score` and :meth:`loss`.

    Logged under ``val/`` and ``test/``: ap, auc (means over batches), ap_global, auc_global, the same with ``new_``
    for events of nodes unseen in training, with ``historical_`` and ``inductive_`` where the data module tests those
    negatives too, and mrr, hits10 when there is more than one negative per event. ``repeated_`` and ``first_`` tell
    events of known pairs from first meetings (over all scores together).
    """

    def configure_metrics(self) -> None:
        """One collection per part, and the breakdowns of the test."""
        self.link_metrics = torch.nn.ModuleDict({f"part_{p}": _collection() for p in PARTS})
        self.rank_metrics = torch.nn.ModuleDict({f"part_{p}": _rank_collection() for p in PARTS})
        self.kinds, self.ages = GroupedScores(len(EDGE_KINDS)), GroupedScores(len(AGES))
        self.by_count = ReciprocalRankByCount()
        self.history: list[dict[str, float]] = []
        self._groups: tuple[Tensor, Tensor] | None = None
        self.features = FeatureTables()
        self._tally = torch.zeros(2, COUNT_BINS, dtype=torch.int64)

    def score(self, batch: Any) -> Tensor:
        """Scores ``(B, 1+K)``; column 0 is the event."""
        raise NotImplementedError(f"{type(self).__name__} defines no score")

    def loss(self, logits: Tensor) -> Tensor:
        """Training loss of scores ``(B, 1+K)``."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def setup(self, stage: str) -> None:
        """Take the feature tables of the data module."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.features = FeatureTables(data.stream.node_feat, data.stream.edge_feat)

    def on_fit_start(self) -> None:
        """Move the feature tables."""
        self.features.to(self.device)

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Loss of one batch."""
        loss = self.loss(self.score(batch))
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss is {loss.item()} at step {self.global_step}: lower the learning rate")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.time))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores of one batch into the metrics."""
        self._evaluate(batch, self._part("val", dataloader_idx))

    def _part(self, stage: str, number: int) -> str:
        """Prefix of the metrics of the ``number``-th loader of a stage."""
        names = getattr(getattr(self.trainer, "datamodule", None), "part_names", {}).get(stage, PARTS)
        return str(names[number])

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores of one batch into the metrics, co-neighbour counts into the tally."""
        scores = self._evaluate(batch, self._part("test", dataloader_idx))
        if dataloader_idx > 0:
            return
        if batch.src_feat is not None:
            self._count(batch.src_feat[:, :, 0, 1].cpu())
        if self._groups is not None:
            for metric, group in zip((self.kinds, self.ages), self._groups, strict=True):
                metric.update(scores, group[batch.event.cpu() - 1].to(scores.device))
        if scores.shape[1] > 2:
            self.by_count.update(scores[:, 0], scores[:, 1:])

    def _evaluate(self, batch: Any, part: str) -> Tensor:
        """Update the metrics of a part; scores ``(B, 1+K)`` with NaN where a list of negatives was shorter."""
        scores = self.score(batch).detach().float()
        target = torch.zeros_like(scores, dtype=torch.int64)
        target[:, 0] = 1
        asked = batch.pair_dst != 0
        _metrics(self.link_metrics, f"part_{part}").update(scores[asked], target[asked])
        scores = scores.masked_fill(~asked, torch.nan)
        if scores.shape[1] > 2:
            _metrics(self.rank_metrics, f"part_{part}").update(scores[:, 0], scores[:, 1:])
        return scores

    def _count(self, common: Tensor) -> None:
        """Tally the co-neighbour counts of asked pairs, positives and negatives."""
        clipped = common.to(torch.int64).clamp(max=COUNT_BINS - 1)
        self._tally[0] += torch.bincount(clipped[:, 0], minlength=COUNT_BINS)
        self._tally[1] += torch.bincount(clipped[:, 1:].flatten(), minlength=COUNT_BINS)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics and remember them for the pictures."""
        values = self._log_metrics("val")
        if not self.trainer.sanity_checking:
            self.history.append({"epoch": float(self.current_epoch), **values})

    def on_train_end(self) -> None:
        """Draw the scores by epoch."""
        if self.history:
            self.save_picture("ap_auc_by_epoch", pictures.by_epoch(self.history))

    def on_test_epoch_start(self) -> None:
        """Tell the events apart, unless the stream is too long for it."""
        data = getattr(self.trainer, "datamodule", None)
        self._groups = None
        if data is not None and len(data.stream) <= BREAKDOWN_EVENTS:
            self._groups = edge_kinds(data.stream), age_quarters(data.stream, data.splits.test)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and draw the pictures."""
        values = self._log_metrics("test")
        kinds, ages = (m.compute() if m.update_called else None for m in (self.kinds, self.ages))
        counts = self.by_count.compute() if self.by_count.update_called else None
        for name, row in zip(EDGE_KINDS, [] if kinds is None else kinds.tolist(), strict=False):
            for metric, value in zip(("ap_global", "auc_global"), row, strict=False):
                self.log(f"test/{name}_{metric}", value, sync_dist=True)
        data = getattr(self.trainer, "datamodule", None)
        found = pictures.Found(self.history, self._tally, values, kinds, ages, counts)
        for name, figure in pictures.draw(found, data):
            self.save_picture(name, figure)
        self.kinds.reset()
        self.ages.reset()
        self.by_count.reset()
        self._tally.zero_()

    def _log_metrics(self, stage: str) -> dict[str, float]:
        """Log and reset what has been updated; the values by name."""
        values: dict[str, float] = {}
        for group in (self.link_metrics, self.rank_metrics):
            for part in PARTS:
                metrics = _metrics(group, f"part_{part}")
                if any(m.update_called for m in metrics.values()):
                    values |= {f"{part}{name}": float(v) for name, v in metrics.compute().items()}
                metrics.reset()
        for name, value in values.items():
            shown = name == "ap"
            self.log(f"{stage}/{name}", value, prog_bar=shown, sync_dist=True, rank_zero_only=False)
        return values

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Rows u, i, ts, score (a probability); nodes are called as in the stream's own file."""
        scores = torch.sigmoid(self.score(batch)[:, 0]).tolist()
        ends: list[Any] = [batch.pair_src[:, 0].cpu(), batch.pair_dst[:, 0].cpu()]
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            ends = [e.tolist() for e in ends]
        else:
            ends = [data.stream.numbering.outer(e, side) for e, side in zip(ends, ("src", "dst"), strict=True)]
        columns = *ends, batch.time.tolist(), scores
        return [{"u": u, "i": i, "ts": t, "score": s} for u, i, t, s in zip(*columns, strict=True)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the validation history."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["link_history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the validation history back."""
        super().on_load_checkpoint(checkpoint)
        self.history = list(checkpoint.get("link_history", []))

    def protocol_fields(self) -> dict[str, Any]:
        """Protocol of the data module, where it tells one."""
        tell = getattr(getattr(self.trainer, "datamodule", None), "record_protocol", None)
        return {} if tell is None else dict(tell())


def _collection() -> MetricCollection:
    """AP and AUC, per batch and over all scores."""
    return MetricCollection(
        {
            "ap": BatchMeanAveragePrecision(),
            "auc": BatchMeanAUROC(),
            "ap_global": GlobalAveragePrecision(),
            "auc_global": GlobalAUROC(),
        },
        compute_groups=False,
    )


def _rank_collection() -> MetricCollection:
    """MRR and Hits@10."""
    return MetricCollection({"mrr": MeanReciprocalRank(), "hits10": HitsAtK(10)}, compute_groups=False)


def _metrics(group: torch.nn.ModuleDict, name: str) -> MetricCollection:
    """A metric collection by name."""
    metrics = group[name]
    assert isinstance(metrics, MetricCollection)
    return metrics
