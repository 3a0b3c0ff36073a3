"""EdgeBank: a pair seen before is a link (Poursafaei et al., NeurIPS 2022); four memories, no training."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Mode = Literal["unlimited", "time_window_fixed", "time_window_repeat", "repeat_threshold"]
MODES = ("unlimited", "time_window_fixed", "time_window_repeat", "repeat_threshold")


class EdgeBank:
    """Predicts 1 for a directed pair that is in the bank.

    Args:
        mode: ``unlimited`` (every pair seen), ``time_window_fixed`` (seen in the last ``window_ratio`` of the times),
            ``time_window_repeat`` (seen within the mean gap of repeated pairs, averaged over all pairs) or
            ``repeat_threshold`` (seen at least as often as the mean pair).
        window_ratio: width of the fixed window as a share of the events.

    Raises:
        ValueError: unknown mode, ratio outside (0, 1].
    """

    def __init__(self, mode: Mode = "unlimited", window_ratio: float = 0.15) -> None:
        if mode not in MODES:
            raise ValueError(f"unknown EdgeBank mode {mode!r}: choose one of {', '.join(MODES)}")
        if not 0 < window_ratio <= 1:
            raise ValueError(f"window_ratio={window_ratio} is outside (0, 1]")
        self.mode, self.window_ratio = mode, window_ratio
        self._code = np.empty(0, dtype=np.int64)
        self._time = np.empty(0)
        self._bank: np.ndarray | None = None

    def update(self, src: Tensor, dst: Tensor, time: Tensor) -> None:
        """Append events to the history; times must not decrease."""
        if bool((src >= 2**31).any()) or bool((dst >= 2**31).any()):
            raise ValueError("EdgeBank pairs ids in 64 bits: number ids above 2^31 anew (compact=True)")
        self._code = np.concatenate([self._code, ((src.to(torch.int64) << 32) | dst).numpy()])
        self._time = np.concatenate([self._time, time.double().numpy()])
        self._bank = None

    # -- the interface of models with state: see StreamStateCallback --------------------------------------------------

    def reset(self) -> None:
        """Forget everything."""
        self._code, self._time, self._bank = np.empty(0, dtype=np.int64), np.empty(0), None

    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """The history; arrays are replaced, never changed in place."""
        return self._code, self._time

    def restore(self, snapshot: tuple[np.ndarray, np.ndarray]) -> None:
        """Put a history back."""
        self._code, self._time = snapshot
        self._bank = None

    def write(self, src: Tensor, dst: Tensor, time: Tensor, edge_feat: Tensor | None = None) -> None:
        """:meth:`update`, with the arguments of the learned memories."""
        self.update(src.cpu(), dst.cpu(), time.cpu())

    def score(self, batch: Any, features: Any = None, *, write: bool = True) -> Tensor:
        """0 or 1 for every asked pair ``(B, 1+K)``; then, with ``write``, the events join the history."""
        src, dst = batch.pair_src.cpu(), batch.pair_dst.cpu()
        bits = self.predict(src.flatten(), dst.flatten()).view(src.shape)
        if write:
            self.write(src[:, 0], dst[:, 0], batch.time)
        return bits

    def predict(self, src: Tensor, dst: Tensor) -> Tensor:
        """1.0 where the pair is in the bank, else 0.0, ``(B,)`` float."""
        if self._bank is None:
            self._bank = self._members() if len(self._code) else self._code
        code = ((src.to(torch.int64) << 32) | dst).numpy()
        return torch.from_numpy(np.isin(code, self._bank)).float()

    def _members(self) -> np.ndarray:
        """Sorted pair codes of the bank."""
        if self.mode == "unlimited":
            return np.unique(self._code)
        if self.mode == "time_window_fixed":
            start = np.quantile(self._time, 1 - self.window_ratio)
            return np.unique(self._code[self._time >= start])
        if self.mode == "time_window_repeat":
            return np.unique(self._code[self._time >= self._time.max() - self._mean_gap()])
        pairs, counts = np.unique(self._code, return_counts=True)
        kept: np.ndarray = pairs[counts >= counts.mean()]
        return kept

    def _mean_gap(self) -> float:
        """Sum over repeated pairs of their mean gap, over the number of all distinct pairs."""
        order = np.argsort(self._code, kind="stable")
        code, time = self._code[order], self._time[order]
        first = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])
        last = np.r_[first[1:], len(code)] - 1
        gaps, span = last - first, time[last] - time[first]
        return float((span[gaps > 0] / gaps[gaps > 0]).sum() / len(first))
