"""Latency of evaluation batches, for the record: CUDA events on a GPU, a monotonic clock elsewhere."""

from __future__ import annotations

import time
from typing import Any

import torch


class BatchClock:
    """Times single batches between their start and end hooks; loading a batch is not part of it.

    Args:
        batches: how many batches are timed.
        warmup: how many are skipped first.
    """

    def __init__(self, batches: int = 20, warmup: int = 5) -> None:
        if batches < 0 or warmup < 0:
            raise ValueError(f"latency_batches {batches} and warmup {warmup} must not be negative")
        self.batches, self.warmup = batches, warmup
        self._seen = 0
        self._start: Any = None
        self._events: list[tuple[Any, Any]] = []
        self._milliseconds: list[float] = []

    def start(self, device: torch.device) -> None:
        """A batch begins on this device."""
        self._seen += 1
        self._start = None
        if self.warmup < self._seen <= self.warmup + self.batches:
            self._start = _event() if device.type == "cuda" else time.perf_counter()

    def stop(self) -> None:
        """The batch has ended; nothing is synchronised."""
        if isinstance(self._start, float):
            self._milliseconds.append((time.perf_counter() - self._start) * 1e3)
        elif self._start is not None:
            self._events.append((self._start, _event()))
        self._start = None

    def criteria(self) -> dict[str, float]:
        """``latency_ms_p50`` and ``latency_ms_p95`` of one batch; empty if none was timed."""
        if self._events:
            torch.cuda.synchronize()
            self._milliseconds += [start.elapsed_time(end) for start, end in self._events]
            self._events = []
        if not self._milliseconds:
            return {}
        times = torch.tensor(self._milliseconds, dtype=torch.float64)
        p50, p95 = torch.quantile(times, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        return {"latency_ms_p50": round(p50, 4), "latency_ms_p95": round(p95, 4)}


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
