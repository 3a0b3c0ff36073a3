"""Split-conformal intervals from leave-one-group-out residuals. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def conformal_quantile(scores: Sequence[float], level: float) -> float:
    """The ``ceil((n + 1) level)``-th smallest score, infinity if that is beyond n.

    Raises:
        ValueError: level outside (0, 1), or a NaN score.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies between 0 and 1")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if np.isnan(ordered).any():
        raise ValueError("a score is NaN; drop it first")
    place = math.ceil((len(ordered) + 1) * level - 1e-12)
    return math.inf if place > len(ordered) else float(ordered[place - 1])
