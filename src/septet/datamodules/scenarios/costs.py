"""Cost of the traffic models on one kind of GPU: seconds per test window, training, parameters (Torch-MTS logs)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DEVICE = "RTX 5000 Ada"


@dataclass(frozen=True, eq=False)
class Costs:
    """Latency, size and training time of models on data sets.

    Attributes:
        models: ``(M,)`` names.
        sets: ``(D,)`` names.
        seconds: ``(M, D)`` per test window: the whole test pass over its windows, each model at its own batch size.
        nodes: ``(D,)`` sensors of a set.
        params: ``(M, D)`` as built for the set; NaN for DCRNN, whose logged 65 is implausible (ORIGIN.md).
        train_s: ``(M, D)`` seconds per epoch times epochs run; 0 for HistoricalInertia, which has nothing to train.
    """

    models: list[str]
    sets: list[str]
    seconds: Array
    nodes: Array
    params: Array
    train_s: Array


@cache
def traffic_costs() -> Costs:
    """The shipped table."""
    source = files("septet.datamodules.scenarios") / "tables" / "traffic_costs.npz"
    with source.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        return Costs(
            [str(m) for m in archive["models"]],
            [str(s) for s in archive["sets"]],
            archive["seconds"].astype(np.float64),
            archive["nodes"].astype(np.float64),
            archive["params"].astype(np.float64),
            archive["train_s"].astype(np.float64),
        )


def traffic_latency(group: list[str]) -> Array:
    """Milliseconds per window ``(M, C)`` for columns of these data sets."""
    costs = traffic_costs()
    return 1000 * costs.seconds[:, [costs.sets.index(g) for g in group]]
