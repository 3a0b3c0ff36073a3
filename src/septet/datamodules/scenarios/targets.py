"""Targets of a column: standardised loss ``z`` and normalised rank ``r`` (specification, section 3)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def average_ranks(values: Any) -> Array:
    """Ranks from 1, ties share their mean (numpy only: importing scipy.stats costs most of a second)."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def loss_of(values: Any, kind: str) -> Array:
    """``L``: log error, or 1 - accuracy as stored. ``(M, C)``, NaN missing.

    Raises:
        ValueError: unknown kind, or a non-positive error.
    """
    values = np.asarray(values, dtype=np.float64)
    if kind == "accuracy":
        return np.asarray(values)
    if kind != "error":
        raise ValueError(f"kind is {kind!r}; use 'error' or 'accuracy'")
    if np.any(values[np.isfinite(values)] <= 0):
        raise ValueError(f"an error of {np.nanmin(values)} is not positive: its logarithm is needed")
    return np.asarray(np.log(np.where(np.isfinite(values), values, np.nan)))


def column_targets(
    values: Any, kind: str, clip: tuple[float, float] = (-2, 3)
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Per column: z = (L - median)/(median - min) clipped, and r = (average rank - 1)/(n - 1).

    Args:
        values: ``(M, C)``, NaN missing.
        kind: ``error`` or ``accuracy`` (values are then 1 - accuracy).
        clip: bounds of z.

    Returns:
        z, r ``(M, C)`` with NaN where missing, and the mask of finite cells.
    """
    loss = loss_of(values, kind)
    mask = np.isfinite(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        median, best = np.nanmedian(loss, axis=0), np.nanmin(np.where(mask, loss, np.nan), axis=0)
    spread = median - best
    flat = ~(spread > 1e-12)
    z = np.where(flat, 0.0, (loss - median) / np.where(flat, 1.0, spread))
    z = np.where(mask, np.clip(z, *clip), np.nan)
    r = np.full_like(loss, np.nan)
    for j in range(loss.shape[1]):
        rows = mask[:, j]
        n = int(rows.sum())
        if n:
            r[rows, j] = (average_ranks(loss[rows, j]) - 1) / (n - 1) if n > 1 else 0.0
    return z, r, mask
