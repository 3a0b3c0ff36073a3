"""Event files as text, plain or gzipped: numbers, and the line on which something is wrong."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from septet.datamodules.temporal_graph.checks import WHOLE


def open_text(path: Path) -> IO[str]:
    """Open plain or gzipped text; a byte order mark at its beginning is skipped."""
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def numbers(path: Path, skip: int, columns: list[int] | None = None, delimiter: str | None = ",") -> np.ndarray:
    """Numbers of a text file, ``(E, C)`` float64.

    Args:
        path: the file.
        skip: lines of header.
        columns: columns to read; default all.
        delimiter: default blanks where None.

    Raises:
        ValueError: a row holds no number, with its line.
    """
    try:
        with open_text(path) as lines, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
            table = np.loadtxt(lines, delimiter=delimiter, skiprows=skip, usecols=columns, ndmin=2, comments="#")
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        line = _bad_line(path, skip, columns, delimiter)
        where = f"line {line}: " if line else ""
        raise ValueError(f"{path.name}: {where}{error}; every event row must hold numbers") from error
    return cast("np.ndarray", table)


def exact(path: Path, skip: int, column: int, values: np.ndarray, delimiter: str | None = ",") -> np.ndarray:
    """``values`` of a column, read again as int64 where float64 would round them (ids and nanoseconds above 2^53)."""
    if not len(values) or not np.abs(values).max() > WHOLE or not np.isfinite(values).all():
        return values
    try:
        with open_text(path) as lines, warnings.catch_warnings():
            warnings.simplefilter("error")
            again = np.loadtxt(
                lines, dtype=np.int64, delimiter=delimiter, skiprows=skip, usecols=[column], ndmin=1, comments="#"
            )
    except (ValueError, OverflowError, DeprecationWarning):
        return values
    return cast("np.ndarray", again)


def _rows(path: Path, skip: int) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and texts of the event rows: neither header nor blank nor comment."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.split("#", 1)[0].strip()
            if number > skip and text:
                yield number, text


def _bad_line(path: Path, skip: int, columns: list[int] | None, delimiter: str | None) -> int | None:
    """First line whose columns are not numbers, or that has another number of them than the first row."""
    width = None
    for number, text in _rows(path, skip):
        cells = text.split(delimiter)
        width = len(cells) if width is None else width
        try:
            for cell in cells if columns is None else [cells[c] for c in columns]:
                float(cell)
        except (ValueError, IndexError):
            return number
        if columns is None and len(cells) != width:
            return number
    return None


def line_of(path: Path, skip: int, row: int) -> int:
    """Line of the ``row``-th event row (from 0)."""
    for count, (number, _) in enumerate(_rows(path, skip)):
        if count == row:
            return number
    raise ValueError(f"{path.name} has no event row {row}")


def check_rows(path: Path, columns: dict[str, Any]) -> None:
    """Look for what no stream may hold and name the line: NaN, falling times, negative or fractional ids.

    Args:
        path: the file that was read.
        columns: src, dst, time; ``skip`` lines of header; ``row`` the file's event row of each event, where sorted.

    Raises:
        ValueError: the first fault of each kind, in that order.
    """
    time = columns["time"]
    faults = [
        (np.isnan(time), "time of event {e} is NaN: remove or repair the event"),
        (np.isinf(time), "time of event {e} is {time}: remove or repair the event"),
    ]
    for name in ("src", "dst"):
        ids = columns[name]
        faults.append((ids < 0, f"node id {{{name}}} is negative: ids start at 0 or 1"))
        faults.append((~np.isfinite(ids) | (ids != np.floor(ids)), f"node id {{{name}}} is not an integer"))
    falls = np.concatenate([np.zeros(min(1, len(time)), dtype=bool), time[1:] < time[:-1]])
    faults.append((falls, "times decrease at event {e} ({time}): sort by time, stable, or read as snap"))
    for bad, message in faults:
        if bad.any():
            event = int(np.flatnonzero(bad)[0])
            values = {name: _plain(columns[name][event]) for name in ("src", "dst", "time")}
            row = int(columns["row"][event]) if "row" in columns else event
            line = line_of(path, columns["skip"], row)
            raise ValueError(f"{path.name}, line {line}: {message.format(e=event, **values)}")


def _plain(value: Any) -> int | float:
    """A number as one would write it: whole ones without a point."""
    number: int | float = value.item()
    return int(number) if isinstance(number, float) and number.is_integer() else number
