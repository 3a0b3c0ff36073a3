"""What every link-prediction module shares: steps, metrics, predictions, pictures."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import MetricCollection

from septet.lightning_modules.cne_n import pictures
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

PARTS = ("", "new_")
COUNT_BINS = 64


class LinkPrediction(Task):
    """Base of the link predictors: a subclass gives :meth:`score` and :meth:`loss`.

    Logged under ``val/`` and ``test/``: ap, auc (means over batches), ap_global, auc_global, the same with ``new_``
    for events of nodes unseen in training, and mrr, hits10 when there is more than one negative per event.
    """

    def configure_metrics(self) -> None:
        """One collection for all events, one for those of new nodes."""
        self.link_metrics = torch.nn.ModuleDict({f"part_{p}": _collection() for p in PARTS})
        self.rank_metrics = torch.nn.ModuleDict({f"part_{p}": _rank_collection() for p in PARTS})
        self.history: list[dict[str, float]] = []
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
        self._evaluate(batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores of one batch into the metrics, co-neighbour counts into the tally."""
        self._evaluate(batch, dataloader_idx)
        if batch.src_feat is not None and dataloader_idx == 0:
            self._count(batch.src_feat[:, :, 0, 1].cpu())

    def _evaluate(self, batch: Any, part: int) -> None:
        """Update the metrics of a part."""
        scores = self.score(batch).detach().float()
        target = torch.zeros_like(scores, dtype=torch.int64)
        target[:, 0] = 1
        name = f"part_{PARTS[part]}"
        _metrics(self.link_metrics, name).update(scores.flatten(), target.flatten())
        if scores.shape[1] > 2:
            _metrics(self.rank_metrics, name).update(scores[:, 0], scores[:, 1:])

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

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and draw the pictures."""
        self._log_metrics("test")
        for name, figure in pictures.draw(self.history, self._tally, getattr(self.trainer, "datamodule", None)):
            self.save_picture(name, figure)
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
        """Rows u, i, ts, score (a probability)."""
        scores = torch.sigmoid(self.score(batch)[:, 0]).tolist()
        columns = batch.pair_src[:, 0].tolist(), batch.pair_dst[:, 0].tolist(), batch.time.tolist(), scores
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
