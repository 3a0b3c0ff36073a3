"""Streams as a folder of columns that are mapped into memory: for more events than a machine would hold twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

COLUMNS = {"src": "src", "dst": "dst", "time": "t"}
"""Field and file stem of what every folder holds."""
EXTRAS = ("label", "edge_feat", "node_feat")
"""What it may hold besides."""


def load_array(path: Path, mmap_mode: Literal["r", "c"] | None = None) -> np.ndarray:
    """An array of numbers; a fault names the file.

    Raises:
        ValueError: the file is empty, cut off, no .npy file, or holds Python objects.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        reason = "it is empty" if path.stat().st_size == 0 else str(error).split("\n")[0]
        if "allow_pickle" in reason:
            reason = "it is no .npy file, or holds Python objects"
        raise ValueError(f"{path}: not a whole .npy file of numbers: {reason}; write it again") from error
    return array


def read_columns(folder: Path) -> dict[str, Any]:
    """Columns ``src.npy``, ``dst.npy``, ``t.npy`` of a folder and those of :data:`EXTRAS` there, memory-mapped.

    Copy on write: nothing that happens to the arrays reaches the files.

    Raises:
        ValueError: a column is missing, damaged or has more than one dimension.
    """
    out = {}
    for name, stem in {**COLUMNS, **{extra: extra for extra in EXTRAS}}.items():
        path = folder / f"{stem}.npy"
        if not path.exists():
            if name in EXTRAS:
                continue
            raise ValueError(f"{folder}: column {path.name} is missing")
        out[name] = load_array(path, "c")
        if out[name].ndim != (2 if name.endswith("_feat") else 1):
            expected = "two dimensions" if name.endswith("_feat") else "one dimension"
            raise ValueError(f"{path}: shape {out[name].shape}, expected {expected}")
    return out


def check_target(folder: Path) -> None:
    """Raise ValueError unless columns may be written to ``folder``: absent or empty."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: columns need a folder, an archive a name that ends in .npz")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give another folder, or remove it first")


def write_columns(folder: Path, chunks: Iterable[Any], num_events: int, extras: dict[str, Any] | None = None) -> None:
    """Write chunks ``(3, n)`` (sources, destinations, times) one after the other; one chunk is in memory at a time.

    The folder appears when it is whole; until then the columns lie in ``.<name>.part`` beside it.

    Args:
        folder: to write; absent or empty.
        chunks: of the columns.
        num_events: of all chunks.
        extras: whole arrays of :data:`EXTRAS`.

    Raises:
        ValueError: the chunks hold another number of events, or the folder is not empty.
    """
    check_target(folder)
    part = folder.with_name(f".{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    try:
        _fill(part, folder, chunks, num_events)
        for name, values in (extras or {}).items():
            np.save(part / f"{name}.npy", values)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(part: Path, folder: Path, chunks: Iterable[Any], num_events: int) -> None:
    """Columns of all chunks in the folder ``part``, made with the first chunk."""
    files: list[np.memmap[Any, Any]] = []
    done = 0
    for chunk in chunks:
        if not files:
            part.mkdir(parents=True)
            files = [
                np.lib.format.open_memmap(part / f"{stem}.npy", mode="w+", dtype=c.dtype, shape=(num_events,))
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
