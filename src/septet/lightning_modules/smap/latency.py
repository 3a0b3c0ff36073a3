"""A log-log law of latency against problem size, per model. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LatencyLaw:
    """``log latency = intercept + slope log size`` with slopes shrunk to their mean.

    Attributes:
        slope: ``(M,)``, .7 own + .3 mean of the defined slopes; the mean where a model has fewer than two sizes.
        intercept: ``(M,)``, NaN for a model without data (its prediction is the mean over the other models).
    """

    def __init__(self, slope: Array, intercept: Array) -> None:
        self.slope, self.intercept = slope, intercept

    @classmethod
    def fit(cls, size: Any, latency: Any, model: Any, n_models: int) -> LatencyLaw:
        """Fit to measurements.

        Args:
            size: ``(N,)`` positive, such as nodes or pixels.
            latency: ``(N,)`` positive, any unit.
            model: ``(N,)`` int, row of the model.
            n_models: number of models.

        Raises:
            ValueError: lengths, no data, a model out of range, or a value that is not positive.
        """
        x, y, m = np.asarray(size, float), np.asarray(latency, float), np.asarray(model, int)
        if not (x.shape == y.shape == m.shape) or x.ndim != 1 or not len(x):
            raise ValueError(f"size {x.shape}, latency {y.shape} and model {m.shape} must be vectors of one length")
        if not (np.all(x > 0) and np.all(y > 0) and np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("sizes and latencies must be positive and finite")
        if m.min() < 0 or m.max() >= n_models:
            raise ValueError(
                f"model {int(m.max() if m.max() >= n_models else m.min())} is out of range 0..{n_models - 1}"
            )
        lx, ly = np.log(x), np.log(y)
        own = np.array([_slope(lx[m == i], ly[m == i]) for i in range(n_models)])
        mean = float(np.nanmean(own)) if np.isfinite(own).any() else 0.0
        slope = np.where(np.isfinite(own), 0.7 * np.nan_to_num(own) + 0.3 * mean, mean)
        centre = [(ly[m == i] - slope[i] * lx[m == i]).mean() if (m == i).any() else np.nan for i in range(n_models)]
        return cls(slope, np.array(centre))

    def predict(self, model: Any, size: Any) -> Array:
        """Latency of models ``(A,)`` at sizes ``(B,)`` as the broadcast of the two.

        Raises:
            ValueError: a size that is not positive.
        """
        m, x = np.asarray(model, int), np.asarray(size, float)
        if not np.all(x > 0):
            raise ValueError(f"size is {x.min()}; it must be positive")
        known = np.isfinite(self.intercept)
        log = self.intercept[m] + self.slope[m] * np.log(x)
        mean = (self.intercept[known] + self.slope[known] * np.log(x)[..., None]).mean(-1)
        return np.asarray(np.exp(np.where(known[m], log, mean)))


def _slope(x: Array, y: Array) -> float:
    if len(np.unique(x)) < 2:
        return float("nan")
    centred = x - x.mean()
    return float((centred * (y - y.mean())).sum() / (centred**2).sum())
