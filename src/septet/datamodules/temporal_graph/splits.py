"""Chronological splits: the DyGLib protocol with unseen nodes, and TGB's."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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


def _require_parts(splits: Splits) -> Splits:
    """Raise ValueError if a part that every run needs is empty."""
    for name in ("train", "val", "test"):
        if len(getattr(splits, name)) == 0:
            raise ValueError(
                f"the {name} split is empty (cut times {splits.val_time}, {splits.test_time}): "
                "the stream is too short or its times too equal; change val_ratio and test_ratio"
            )
    return splits


def _cut_times(stream: EventStream, val_ratio: float, test_ratio: float) -> tuple[float, float]:
    """Quantiles of the times at which validation and test begin."""
    if not (val_ratio > 0 and test_ratio > 0 and val_ratio + test_ratio < 1):
        raise ValueError(f"val_ratio={val_ratio}, test_ratio={test_ratio}: both above 0 and together below 1")
    cuts = [1 - val_ratio - test_ratio, 1 - test_ratio]
    first, second = np.quantile(stream.time.numpy(), cuts)
    return float(first), float(second)


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
    late = stream.time > val_time
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
    return _parts(stream, stream.time <= val_time, val_time, test_time)


def _parts(stream: EventStream, train: Tensor, val_time: float, test_time: float) -> Splits:
    """All parts from the training mask and the cut times."""
    positions = train.nonzero().squeeze(1)
    seen = _nodes_of(stream, positions)
    new = ~(seen[stream.src] & seen[stream.dst])
    val = (stream.time > val_time) & (stream.time <= test_time)
    test = stream.time > test_time
    where = [mask.nonzero().squeeze(1) for mask in (val, test, val & new, test & new)]
    return _require_parts(Splits(positions, where[0], where[1], where[2], where[3], val_time, test_time))
