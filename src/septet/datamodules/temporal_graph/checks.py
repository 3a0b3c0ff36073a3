"""Rules of every event file, whatever its format: whole ids, finite times, columns of one dimension and length."""

from __future__ import annotations

from typing import Any

import numpy as np

WHOLE = 2**53
"""Beyond it float64 does not tell neighbouring integers apart."""
LARGEST_ID = 2**31 - 1
"""Largest id without ``compact``: the memory keeps a row per id."""


def checked_ids(name: str, values: Any) -> np.ndarray:
    """Ids ``(E,)`` as integers.

    Raises:
        ValueError: text, objects, more dimensions, fractions, negative or too large numbers.
    """
    ids = _column(name, values)
    if ids.dtype.kind == "f":
        bad = ~np.isfinite(ids) | (ids != np.floor(ids))
        if bad.any():
            event = int(np.flatnonzero(bad)[0])
            raise ValueError(f"{name} of event {event} is {ids[event]}: a node id is an integer")
        if len(ids) and float(np.abs(ids).max()) > WHOLE:
            raise ValueError(
                f"{name} holds the id {np.abs(ids).max():.0f}, beyond exact numbers: write integers < 2^63"
            )
    if len(ids) and ids.dtype.kind == "u" and int(ids.max()) >= 2**63:
        raise ValueError(f"{name} holds the id {int(ids.max())}: ids end below 2^63")
    if len(ids) and int(ids.min()) < 0:
        raise ValueError(f"node id {int(ids.min())} is negative: ids start at 0 or 1")
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def checked_times(values: Any) -> np.ndarray:
    """Times ``(E,)``, int64 where all are whole, else float64.

    Raises:
        ValueError: dates, text, NaN or infinite times.
    """
    time = _column("time", values)
    if time.dtype.kind == "f":
        bad = ~np.isfinite(time)
        if bad.any():
            event = int(np.flatnonzero(bad)[0])
            shown = "NaN" if np.isnan(time[event]) else f"{time[event]}"
            raise ValueError(f"time of event {event} is {shown}: remove or repair the event")
        whole = len(time) > 0 and float(np.abs(time).max()) < 2**63 and np.array_equal(time, np.floor(time))
        return time.astype(np.int64 if whole else np.float64)
    if time.dtype.kind == "u" and len(time) and int(time.max()) >= 2**63:
        raise ValueError(f"time {int(time.max())} is not below 2^63")
    return time if time.dtype == np.int64 else time.astype(np.int64)


def _column(name: str, values: Any) -> np.ndarray:
    """One column of numbers."""
    column = np.asarray(values)
    if column.dtype.kind in "mM":
        raise ValueError(f"{name} holds dates ({column.dtype}): store seconds, as integers or floats")
    if column.dtype.kind not in "iuf":
        raise ValueError(f"{name} holds {column.dtype}: store numbers (names of nodes must be numbered first)")
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape}, expected one dimension")
    return column


def check_equal_lengths(columns: dict[str, Any]) -> None:
    """Raise ValueError unless src, dst, time and, where it is there, label are equally long."""
    sizes = {name: len(columns[name]) for name in ("src", "dst", "time", "label") if name in columns}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"unequal lengths: {', '.join(f'{n} {s}' for n, s in sizes.items())}")


def checked_features(name: str, values: Any) -> np.ndarray:
    """A table of features ``(rows, F)``.

    Raises:
        ValueError: another number of dimensions, or no numbers.
    """
    features = np.asarray(values)
    if features.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds {features.dtype}, expected numbers")
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {features.shape}, expected two dimensions (rows, features)")
    return features
