"""Streams and golden files shared by the hashing tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex
from tests.support.paths import golden

BACKENDS = ("reference", "torch", "native")


def load(name: str) -> dict[str, Tensor]:
    """All arrays of a golden file as tensors."""
    with np.load(golden("cne_n", name)) as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def events(data: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Source, destination and time of a golden stream, int64."""
    return data["src"].long(), data["dst"].long(), data["t"].long()


def random_stream(
    num_nodes: int = 30, num_events: int = 120, seed: int = 0, max_gap: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Random events with ties and self-events."""
    g = torch.Generator().manual_seed(seed)
    src = torch.randint(1, num_nodes + 1, (num_events,), generator=g)
    dst = torch.randint(1, num_nodes + 1, (num_events,), generator=g)
    time = torch.randint(0, max_gap, (num_events,), generator=g).cumsum(0)
    return src, dst, time


def build(src: Tensor, dst: Tensor, time: Tensor, num_nodes: int, **memory: Any) -> Any:
    """A memory and an index for a stream."""
    return HashNeighborMemory(num_nodes, **memory), TemporalNeighborIndex(src, dst, time, num_nodes=num_nodes)
