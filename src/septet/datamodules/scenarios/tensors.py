"""What a recommender reads of a bench under one split, as tensors; test results never enter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.graph import _visible, model_inputs, standardised
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.targets import column_targets, loss_of


@dataclass
class Memory:
    """The visible results of a bench.

    Attributes:
        features: ``(C, F)`` standardised on train columns.
        scenario: ``(C,)`` int64, 0 for a scenario that no train column has, else 1 + its number.
        group: ``(C,)`` int64.
        values: ``(C, M, 3)`` rank, clipped z and centred loss of visible cells, 0 elsewhere.
        seen: ``(C, M)`` bool.
        models: ``(M, G)`` standardised model features.
        latency: ``(C, M)`` log milliseconds, NaN unknown.
        acceptance: ``(M,)`` log(1 + stars), standardised, NaN unknown; None: no record carries it.
        stack: ``(C, M)`` ranks by a recommender's own prior, 0 best, NaN unknown; None: no such prior.
        cold: ``(C, M)`` ranks expected from model features alone, for models whose results are hidden; likewise.
    """

    features: Tensor
    scenario: Tensor
    group: Tensor
    values: Tensor
    seen: Tensor
    models: Tensor
    latency: Tensor
    acceptance: Tensor | None = None
    stack: Tensor | None = None
    cold: Tensor | None = None

    @property
    def shape(self) -> dict[str, int]:
        """Sizes that a network is built from."""
        return {
            "features": self.features.shape[1],
            "scenarios": int(self.scenario.max()) + 1,
            "models": self.models.shape[0],
            "model_features": self.models.shape[1],
        }


@dataclass
class Query:
    """Columns to score against a memory.

    Attributes:
        memory: visible results.
        columns: ``(Q,)`` int64.
        allowed: ``(Q, C)`` bool, memory columns a query may read.
        raw: ``(M, Q)`` float64 results for metrics, NaN missing; never read by the network.
        epoch: for random hiding as a pure function of (seed, epoch, columns).
    """

    memory: Memory
    columns: Tensor
    allowed: Tensor
    raw: Tensor
    epoch: int = 0


def build_memory(bench: Bench, split: Split) -> Memory:
    """The memory of one split; cells outside train are dropped before anything is computed."""
    values = np.where(_visible(bench, split), bench.values, np.nan)
    z, r, mask = column_targets(values, bench.kind)
    loss = loss_of(values, bench.kind)
    centred = _centred(loss, mask)
    stacked = np.nan_to_num(np.stack([r, z, centred], -1)).transpose(1, 0, 2)
    known = list(dict.fromkeys(bench.scenario[j] for j in split.train))
    groups = list(dict.fromkeys(bench.group))
    times = np.full(bench.values.shape, np.nan)
    if bench.latency is not None:
        times = np.where(np.isfinite(values), bench.latency, np.nan)
    liked = None
    if bench.acceptance is not None:
        spread = float(np.nanstd(bench.acceptance))
        scaled = (bench.acceptance - np.nanmean(bench.acceptance)) / (spread if spread > 1e-9 else 1.0)
        liked = torch.tensor(scaled, dtype=torch.float32)
    return Memory(
        features=torch.tensor(standardised(bench, split.train), dtype=torch.float32),
        scenario=torch.tensor([known.index(s) + 1 if s in known else 0 for s in bench.scenario]),
        group=torch.tensor([groups.index(g) for g in bench.group]),
        values=torch.tensor(stacked, dtype=torch.float32),
        seen=torch.tensor(mask.T.copy()),
        models=torch.tensor(model_inputs(bench), dtype=torch.float32),
        latency=torch.tensor(np.log(times).T.copy(), dtype=torch.float32),
        acceptance=liked,
    )


def _centred(loss: np.ndarray, mask: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Loss minus its column's median, in units of the median spread over columns, clipped to (-3, 6)."""
    columns = mask.any(0)
    found = np.full_like(loss, np.nan)
    if not columns.any():
        return found
    median = np.nanmedian(loss[:, columns], axis=0)
    deviation = np.nanmedian(np.abs(loss[:, columns] - median), axis=0)
    scale = float(np.median(deviation)) or 1.0
    found[:, columns] = np.clip((loss[:, columns] - median) / (2 * scale), -3, 6)
    return found


def allowed_columns(memory: Memory, columns: Tensor, hidden: Tensor | None = None) -> Tensor:
    """``(Q, C)``: columns with results, of another group than the query's, and not of a hidden group.

    Args:
        memory: visible results.
        columns: ``(Q,)``.
        hidden: group numbers that are out of reach as well.
    """
    usable = memory.seen.any(1)
    if hidden is not None:
        usable = usable & ~torch.isin(memory.group, hidden)
    return usable[None] & (memory.group[columns][:, None] != memory.group[None])
