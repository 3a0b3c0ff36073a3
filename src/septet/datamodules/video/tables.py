"""CSV files of motions or poses."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

MOTION = (["forward", "right"], ["forward", "right", "yaw"])
POSE = ["x", "y", "z", "qw", "qx", "qy", "qz"]


def read_table(path: Path, headers: Sequence[list[str]]) -> tuple[list[str], Tensor]:
    """Header and numbers of a CSV, ``(rows, columns)`` float64; blank lines do not count.

    Args:
        path: of the file.
        headers: those that are allowed.

    Raises:
        ValueError: another header, no rows, a row of another length, or a value that is no finite number; the file and
            the row are named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header not in headers:
        allowed = " or ".join(",".join(h) for h in headers)
        raise ValueError(f"{path}: expected a header {allowed} and rows of numbers, found {','.join(header)!r}")
    if len(rows) < 2:
        raise ValueError(f"{path}: no rows under the header {','.join(header)}")
    values = [_numbers(f"{path}, row {number}", row, len(header)) for number, row in enumerate(rows[1:], 1)]
    return header, torch.tensor(values, dtype=torch.float64)


def _numbers(where: str, row: list[str], width: int) -> list[float]:
    """One row of finite numbers."""
    if len(row) != width:
        raise ValueError(f"{where}: {len(row)} columns beside a header of {width}")
    try:
        values = [float(cell) for cell in row]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not bool(torch.tensor(values).isfinite().all()):
        raise ValueError(f"{where}: {','.join(row)} holds values that are not finite")
    return values
