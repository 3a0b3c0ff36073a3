"""Visible-infrared person re-identification: native layouts, P x K batches, four augmented streams."""

from septet.datamodules.reid.batches import EvalBatch, QuadBatch
from septet.datamodules.reid.datamodule import ReIDQuadrupleStreams
from septet.datamodules.reid.readers import LLCM, SYSUMM01, RegDB, Sample
from septet.datamodules.reid.sampler import CrossModalPKBatchSampler
from septet.datamodules.reid.synthetic import write_synthetic

__all__ = [
    "LLCM",
    "SYSUMM01",
    "CrossModalPKBatchSampler",
    "EvalBatch",
    "QuadBatch",
    "ReIDQuadrupleStreams",
    "RegDB",
    "Sample",
    "write_synthetic",
]
