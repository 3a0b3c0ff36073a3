"""Where the car's own bonnet begins: pixels an estimator must not track."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 4
"""Rows above the found rim that are ignored too: features reach that far."""


def bonnet_mask(frames: Tensor, quantile: float = 0.25, start: float = 0.6) -> Tensor:
    """Rows of the car's own bonnet at the bottom of a clip.

    Two signs, the higher one counts. A dull bonnet: rows that hardly change over time. A bonnet that mirrors the
    world changes as much as the road, but its rim stands still: a line across at least 30 % of the picture whose
    vertical gradient keeps its sign in nine of ten frames; looked for from 96 rows up.

    Args:
        frames: ``(T, 3, H, W)`` uint8.
        quantile: a row is dull while its median deviation over time is under this share of the picture's median.
        start: rows above this share of the height never count.

    Returns:
        ``(H, W)`` bool, True = ignore; all False where there is none.
    """
    grey = frames.float().mean(1)
    lowest = int(start * grey.shape[1])
    if len(grey) < 3 or float(grey.std(0)[:lowest].median()) < 1:  # a still clip shows nothing
        return torch.zeros(grey.shape[1:], dtype=torch.bool)
    rows = [row for row in (_dull_rows(grey, quantile, lowest), _rim(grey, lowest)) if row is not None]
    mask = torch.zeros(grey.shape[1:], dtype=torch.bool)
    if rows:
        mask[min(rows) :] = True
    return mask


def rows_below(row: int, height: int, width: int) -> Tensor:
    """Mask ``(H, W)`` of all rows from ``row`` down.

    Raises:
        ValueError: a row outside the picture.
    """
    if not 0 < row < height:
        raise ValueError(f"bonnet={row} is not a row of a picture of {height} rows")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[row:] = True
    return mask


def _dull_rows(grey: Tensor, quantile: float, lowest: int) -> int | None:
    """First of the rows at the bottom that hardly change, or None."""
    rows = grey.std(0).median(1).values
    limit = float(rows[:lowest].median()) * quantile
    found = None
    for row in range(len(rows) - 1, lowest, -1):
        if float(rows[row]) > limit:
            break
        found = row
    return found


def _rim(grey: Tensor, lowest: int, contrast: float = 8.0, span: float = 0.3) -> int | None:
    """First row of the longest line that stands still while the world moves, less a margin, or None."""
    height, width = grey.shape[1:]
    if height < 96:
        return None
    gradient = torch.zeros_like(grey)
    gradient[:, 2:-2] = grey[:, 4:] - grey[:, :-4]
    usual = gradient.median(0).values
    same = (gradient.sign() == usual.sign()).float().mean(0)
    strength = torch.where(same >= 0.9, usual.abs(), torch.zeros_like(usual))
    strength[:lowest] = 0
    best, row = strength.max(0)
    runs = _runs(row.tolist(), (best > contrast).tolist())
    longest = max(runs, key=len, default=[])
    if len(longest) < span * width:
        return None
    return max(lowest, min(longest) - MARGIN)


def _runs(rows: list[int], found: list[bool], jump: int = 3) -> list[list[int]]:
    """Rows of neighbouring columns as connected lines."""
    runs: list[list[int]] = []
    last: int | None = None
    for row, there in zip(rows, found, strict=True):
        if not there:
            last = None
            continue
        if last is None or abs(row - last) > jump:
            runs.append([])
        runs[-1].append(row)
        last = row
    return runs
