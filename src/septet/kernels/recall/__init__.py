"""Recall from an associative memory: nearest keys, and attention per model that falls back to a prior far away."""

from septet.kernels.recall.dense import dense_recall
from septet.kernels.recall.reference import gated_recall_reference, topk_reference
from septet.kernels.recall.segments import gated_recall, topk

__all__ = ["dense_recall", "gated_recall", "gated_recall_reference", "topk", "topk_reference"]
