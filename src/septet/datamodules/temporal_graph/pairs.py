"""Distinct pairs by first time of meeting: candidates of hard negatives without Python sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class PairHistory:
    """Pairs as codes ``src * (N+1) + dst``, ordered by the time at which they were first seen.

    The candidates at a time are a slice of that order minus the pairs of the window, so a draw costs the size of the
    batch, not of the history.

    Args:
        src: sources ``(E,)``.
        dst: destinations ``(E,)``.
        time: non-decreasing times ``(E,)``.
        after: leave out pairs first seen up to this time (inductive), or None.
    """

    def __init__(self, src: Tensor, dst: Tensor, time: Tensor, after: float | None = None) -> None:
        self.base = int(torch.maximum(src.max(), dst.max())) + 1
        self.codes = (src * self.base + dst).numpy()
        self.time = time.numpy()
        distinct, first = np.unique(self.codes, return_index=True)
        order = np.argsort(first, kind="stable")
        self.pairs, self.first_seen = distinct[order], self.time[first[order]]
        self.start = 0 if after is None else int(np.searchsorted(self.first_seen, after, "right"))
        self.sources, self.targets = np.unique(src.numpy()), np.unique(dst.numpy())

    def rewind(self) -> None:
        """Nothing to rewind: draws depend on times alone."""

    def draw(self, src: Tensor, dst: Tensor, time: Tensor, rng: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """``len(src)`` distinct candidates where there are enough; see :class:`NegativeSampler`."""
        size, begin, end = len(src), time[0].item(), time[-1].item()
        window = self.codes[np.searchsorted(self.time, begin, "left") : np.searchsorted(self.time, end, "right")]
        banned = np.unique(np.concatenate([window, (src * self.base + dst).numpy()]))
        stop = int(np.searchsorted(self.first_seen, begin, "right"))
        number = max(0, stop - self.start)
        chosen = self._candidates(number, size, banned, rng)
        if len(chosen) < size:
            chosen = np.concatenate([chosen, self._fill(size - len(chosen), banned, rng)])
        codes = torch.from_numpy(chosen)
        return codes // self.base, codes % self.base

    def _candidates(self, number: int, size: int, banned: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Up to ``size`` pairs of the slice, none banned, uniform and without replacement."""
        wanted = size + len(banned)
        if number > 4 * wanted:
            drawn = np.random.default_rng(rng.randint(0, 2**31)).choice(number, wanted, replace=False)
        else:
            drawn = rng.permutation(number)
        pairs = self.pairs[self.start + drawn]
        kept: np.ndarray = pairs[~_member(pairs, banned)]
        return kept[:size]

    def _fill(self, size: int, banned: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Random pairs of known sources and destinations, none banned."""
        pool = len(self.sources) * len(self.targets)
        if pool <= 4 * (size + len(banned)):
            codes: np.ndarray = (self.sources[:, None] * self.base + self.targets).ravel()
            codes = codes[~_member(codes, banned)]
            if len(codes) == 0:
                raise ValueError("every possible pair occurs in the batch: no negative can be drawn; lower batch_size")
            picked: np.ndarray = codes[rng.choice(len(codes), size, replace=len(codes) < size)]
            return picked
        filled = np.empty(0, dtype=np.int64)
        while len(filled) < size:
            s = self.sources[rng.randint(0, len(self.sources), 2 * size)]
            fresh = s * self.base + self.targets[rng.randint(0, len(self.targets), 2 * size)]
            filled = np.concatenate([filled, fresh[~_member(fresh, banned)]])
        return filled[:size]


def _member(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Mask of the values that occur in a sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(ordered, values)
    found: np.ndarray = ordered[np.minimum(place, len(ordered) - 1)] == values
    return found
