"""Chronological splits: the DyGLib protocol with unseen nodes, and TGB's."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.checks import WHOLE
from septet.datamodules.temporal_graph.events import EventStream, distinct_ids


class Splits(NamedTuple):
    """Positions (0-based, increasing) of the events of each part, and the two cut times."""

    train: Tensor
    val: Tensor
    test: Tensor
    new_val: Tensor
    new_test: Tensor
    val_time: float
    test_time: float


def _require_parts(sizes: dict[str, int], cuts: tuple[float, float]) -> None:
    """Raise ValueError if a part that every run needs is empty."""
    for name, size in sizes.items():
        if size == 0:
            raise ValueError(
                f"the {name} split is empty (cut times {cuts[0]}, {cuts[1]}): "
                "the stream is too short or its times too equal; change val_ratio and test_ratio"
            )


def _cut_times(stream: EventStream, val_ratio: float, test_ratio: float) -> tuple[float, float]:
    """Quantiles of the times at which validation and test begin."""
    if not (val_ratio > 0 and test_ratio > 0 and val_ratio + test_ratio < 1):
        raise ValueError(f"val_ratio={val_ratio}, test_ratio={test_ratio}: both above 0 and together below 1")
    cuts = [1 - val_ratio - test_ratio, 1 - test_ratio]
    time = stream.time.numpy()
    first, second = (_quantile(time, cut) for cut in cuts)
    ends = [int(np.searchsorted(time, cut, "right")) for cut in (first, second)]
    sizes = {"train": ends[0], "val": ends[1] - ends[0], "test": len(time) - ends[1]}
    _require_parts(sizes, (first, second))
    return first, second


def _quantile(time: np.ndarray, share: float) -> float:
    """Quantile of sorted times; whole ones beyond float64 (nanoseconds) are counted from the first, exactly."""
    if time.dtype.kind == "i" and max(abs(int(time[0])), abs(int(time[-1]))) > WHOLE:
        return int(time[0]) + math.floor(float(np.quantile(time - time[0], share)))
    return float(np.quantile(time, share))


def _after(stream: EventStream, cut: float) -> Tensor:
    """Mask of the events later than ``cut`` (by numpy: torch would compare whole times with a number in float32)."""
    position = int(np.searchsorted(stream.time.numpy(), cut, "right"))
    return torch.arange(len(stream)) >= position


def _nodes_of(stream: EventStream, positions: Tensor) -> Tensor:
    """Mask ``(N+1,)`` of the nodes that take part in the events at ``positions``."""
    seen = torch.zeros(stream.nodes + 1, dtype=torch.bool)
    seen[stream.src[positions]] = True
    seen[stream.dst[positions]] = True
    return seen


def dyglib_split(
    stream: EventStream,
    val_ratio: float = 0.15,
    test_ratio: float = 0.15,
    new_node_ratio: float = 0.1,
    seed: int = 2020,
) -> Splits:
    """Split of DyGLib (NeurIPS 2023): cut by time quantiles, hide a tenth of the nodes from training.

    The hidden nodes are drawn from those that occur after the first cut, in CPython's set order: that order is part of
    the published protocol.

    Args:
        stream: the events.
        val_ratio: share of validation.
        test_ratio: share of test.
        new_node_ratio: share of all nodes hidden from training.
        seed: of the draw.

    Raises:
        ValueError: ratios out of range or an empty part.
    """
    val_time, test_time = _cut_times(stream, val_ratio, test_ratio)
    if not 0 <= new_node_ratio < 1:
        raise ValueError(f"new_node_ratio={new_node_ratio} is outside [0, 1)")
    late = _after(stream, val_time)
    number = int(new_node_ratio * len(distinct_ids(stream.src, stream.nodes, stream.dst)))
    if number == 0:
        return _parts(stream, ~late, val_time, test_time)
    later_nodes = set(stream.src[late].tolist()).union(set(stream.dst[late].tolist()))
    if number > len(later_nodes):
        raise ValueError(f"{number} nodes to hide but only {len(later_nodes)} occur late: lower new_node_ratio")
    hidden = torch.zeros(stream.nodes + 1, dtype=torch.bool)
    hidden[random.Random(seed).sample(tuple(later_nodes), number)] = True
    touched = hidden[stream.src] | hidden[stream.dst]
    return _parts(stream, ~late & ~touched, val_time, test_time)


def tgb_split(stream: EventStream, val_ratio: float = 0.15, test_ratio: float = 0.15) -> Splits:
    """Split of TGB (NeurIPS 2023): the same cuts, no node hidden."""
    val_time, test_time = _cut_times(stream, val_ratio, test_ratio)
    return _parts(stream, ~_after(stream, val_time), val_time, test_time)


def _parts(stream: EventStream, train: Tensor, val_time: float, test_time: float) -> Splits:
    """All parts from the training mask and the cut times."""
    positions = train.nonzero().squeeze(1)
    seen = _nodes_of(stream, positions)
    new = ~(seen[stream.src] & seen[stream.dst])
    test = _after(stream, test_time)
    val = _after(stream, val_time) & ~test
    where = [mask.nonzero().squeeze(1) for mask in (val, test, val & new, test & new)]
    sizes = {"train": len(positions), "val": len(where[0]), "test": len(where[1])}
    _require_parts(sizes, (val_time, test_time))
    return Splits(positions, where[0], where[1], where[2], where[3], val_time, test_time)
