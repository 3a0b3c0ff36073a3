"""Streams as a folder of columns that are mapped into memory: for more events than a machine would hold twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {"src": "src", "dst": "dst", "time": "t"}
"""Field and file stem; ``label`` is optional."""


def read_columns(folder: Path) -> dict[str, Any]:
    """Columns ``src.npy``, ``dst.npy``, ``t.npy`` and, where it is there, ``label.npy`` of a folder, memory-mapped.

    Copy on write: nothing that happens to the arrays reaches the files.

    Raises:
        ValueError: a column is missing or has more than one dimension.
    """
    out = {}
    for name, stem in {**COLUMNS, "label": "label"}.items():
        path = folder / f"{stem}.npy"
        if not path.exists():
            if name == "label":
                continue
            raise ValueError(f"{folder}: column {path.name} is missing")
        out[name] = np.load(path, mmap_mode="c")
        if out[name].ndim != 1:
            raise ValueError(f"{path}: shape {out[name].shape}, expected one dimension")
    return out


def write_columns(folder: Path, chunks: Iterable[Any], num_events: int) -> None:
    """Write chunks ``(3, n)`` (sources, destinations, times) one after the other; one chunk is in memory at a time.

    Raises:
        ValueError: the chunks hold another number of events.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[np.memmap[Any, Any]] = []
    done = 0
    for chunk in chunks:
        if not files:
            files = [
                np.lib.format.open_memmap(folder / f"{stem}.npy", mode="w+", dtype=c.dtype, shape=(num_events,))
                for stem, c in zip(COLUMNS.values(), chunk, strict=True)
            ]
        size = len(chunk[0])
        if done + size > num_events:
            raise ValueError(f"{folder}: more than the {num_events:,} events announced")
        for file, column in zip(files, chunk, strict=True):
            file[done : done + size] = column
        done += size
    if done != num_events:
        raise ValueError(f"{folder}: {done:,} events arrived, {num_events:,} were announced")
    for file in files:
        file.flush()
