"""Negative links of the evaluation protocols: random, historical and inductive (Poursafaei et al., NeurIPS 2022)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septet.datamodules.temporal_graph.compat import SetSampler
from septet.datamodules.temporal_graph.pairs import PairHistory

Strategy = Literal["random", "historical", "inductive"]
STRATEGIES = ("random", "historical", "inductive")


class NegativeSampler:
    """One negative per positive, batch after batch.

    ``random`` keeps the source and draws the destination uniformly over the distinct destinations, true edges not
    excluded. ``historical`` draws pairs seen up to the batch's first time and absent from the batch's time window;
    ``inductive`` additionally leaves out all pairs seen up to ``last_observed_time``. Both use every candidate before
    they fill up with random pairs, and never return a pair of the batch.

    Args:
        src: sources of the whole stream ``(E,)``.
        dst: destinations ``(E,)``.
        time: times ``(E,)``; needed by the two hard strategies.
        strategy: see above.
        seed: of the draws; :meth:`reset` starts them again.
        last_observed_time: end of what the model may have seen; needed by ``inductive``.
        compat: draw in CPython's set order as the official code does (parity only; memory grows with all pairs).

    Raises:
        ValueError: unknown strategy, missing times, ``inductive`` without ``last_observed_time``.
    """

    def __init__(
        self,
        src: Tensor,
        dst: Tensor,
        time: Tensor | None = None,
        *,
        strategy: Strategy = "random",
        seed: int = 0,
        last_observed_time: float | None = None,
        compat: bool = False,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown negative strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
        if strategy != "random" and time is None:
            raise ValueError(f"strategy {strategy!r} needs the times of the events")
        if strategy == "inductive" and last_observed_time is None:
            raise ValueError("strategy 'inductive' needs last_observed_time: the last time seen by the model")
        self.strategy, self.seed = strategy, seed
        self.num_sources = len(torch.unique(src))
        self.destinations = torch.unique(dst)
        self._state = np.random.RandomState(seed)
        self._hard: PairHistory | SetSampler | None = None
        if strategy != "random":
            assert time is not None
            after = last_observed_time if strategy == "inductive" else None
            self._hard = (SetSampler if compat else PairHistory)(src, dst, time, after)

    def reset(self) -> None:
        """Start the draws again."""
        self._state = np.random.RandomState(self.seed)
        if self._hard is not None:
            self._hard.rewind()

    def sample(self, src: Tensor, dst: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Negatives of one batch in stream order.

        Args:
            src: sources of the batch ``(B,)``.
            dst: destinations ``(B,)``.
            time: times ``(B,)``; the first and the last bound the window.

        Returns:
            Negative sources and destinations ``(B,)``.
        """
        size = len(src)
        if self._hard is None:
            self._state.randint(0, self.num_sources, size)
            drawn: NDArray[np.int64] = self._state.randint(0, len(self.destinations), size)
            return src, self.destinations[torch.from_numpy(drawn)]
        return self._hard.draw(src, dst, time, self._state)


def batched_negatives(
    sampler: NegativeSampler, src: Tensor, dst: Tensor, time: Tensor, batch_size: int, columns: int = 1
) -> tuple[Tensor, Tensor]:
    """Negatives ``(E, K)`` of a whole part, drawn batch by batch from the sampler's start."""
    sampler.reset()
    parts: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(src), batch_size):
        batch = src[start : start + batch_size], dst[start : start + batch_size], time[start : start + batch_size]
        drawn = [sampler.sample(*batch) for _ in range(columns)]
        parts.append((torch.stack([d[0] for d in drawn], 1), torch.stack([d[1] for d in drawn], 1)))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
