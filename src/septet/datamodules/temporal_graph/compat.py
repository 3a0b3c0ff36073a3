"""Hard negatives in CPython's set order, equal to the published fixtures: parity only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Pair = tuple[int, int]


class SetSampler:
    """Python sets of pairs, filled in stream order and combined as ``historical - observed - current``.

    Args:
        src: sources ``(E,)``.
        dst: destinations ``(E,)``.
        time: non-decreasing times ``(E,)``.
        after: last observed time (inductive), or None (historical).
    """

    def __init__(self, src: Tensor, dst: Tensor, time: Tensor, after: float | None = None) -> None:
        self.events: list[Pair] = list(zip(src.tolist(), dst.tolist(), strict=True))
        self.time = time.numpy()
        self.inductive = after is not None
        self.observed = (
            set(self.events[: int(np.searchsorted(self.time, after, "right"))]) if after is not None else set()
        )
        self._ends = torch.unique(src).tolist(), torch.unique(dst).tolist()
        self._possible: set[Pair] | None = None
        self.rewind()

    def rewind(self) -> None:
        """Forget the history gathered so far."""
        self.history: set[Pair] = set()
        self._read = 0

    def _history_until(self, time: float) -> set[Pair]:
        """All pairs with time <= ``time``; grows with the batches, in stream order."""
        stop = int(np.searchsorted(self.time, time, "right"))
        if stop < self._read:
            self.rewind()
        for pair in self.events[self._read : stop]:
            self.history.add(pair)
        self._read = max(self._read, stop)
        return self.history

    def draw(self, src: Tensor, dst: Tensor, time: Tensor, rng: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Negatives of one batch."""
        size, begin, end = len(src), time[0].item(), time[-1].item()
        left, right = np.searchsorted(self.time, begin, "left"), np.searchsorted(self.time, end, "right")
        current = set(self.events[int(left) : int(right)])
        history = self._history_until(begin)
        candidates = list(history - self.observed - current if self.inductive else history - current)
        if size > len(candidates):
            chosen = self._random(size - len(candidates), src, dst, rng) + candidates
        else:
            chosen = [candidates[i] for i in rng.choice(len(candidates), size=size, replace=False)]
        pairs = torch.tensor(chosen, dtype=torch.int64)
        return pairs[:, 0], pairs[:, 1]

    def _random(self, size: int, src: Tensor, dst: Tensor, rng: np.random.RandomState) -> list[Pair]:
        """Random pairs of the Cartesian set that the batch does not hold."""
        if self._possible is None:
            self._possible = {(s, d) for s in self._ends[0] for d in self._ends[1]}
        pool = list(self._possible - set(zip(src.tolist(), dst.tolist(), strict=True)))
        return [pool[i] for i in rng.choice(len(pool), size=size, replace=len(pool) < size)]
