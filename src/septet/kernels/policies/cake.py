"""CAKE: cascading and adaptive KV cache eviction with layer preferences (ICLR 2025, arXiv 2503.12491)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from septet.kernels.policies.allocation import allocate
from septet.kernels.policies.base import Policy, check_choice, check_real, check_whole, check_window
from septet.kernels.policies.scores import LayerScore, indicator, preference
from septet.kernels.policies.stats import WindowStats, window_stats

TAUS: dict[str, dict[int, tuple[float, float]]] = {
    "llama2-7b": {1024: (1.9, 1.8), 128: (0.9, 2.3)},
    "llama2-13b": {1024: (0.5, 0.4), 128: (1.8, 2.0)},
    "llama3.1-8b": {1024: (1.6, 0.4), 128: (1.6, 0.6)},
    "mistral-7b-v0.3": {1024: (0.8, 0.5), 128: (1.0, 0.8)},
    "qwen2.5-7b": {1024: (1.5, 0.6), 128: (0.4, 0.6)},
}
"""Published temperatures (tau1, tau2) by model and capacity."""


@dataclass(frozen=True)
class CAKE(Policy):
    """CAKE: layers share one budget by the dispersion and shift of their attention, trimmed while the prompt is read.

    Args:
        capacity: tokens per layer and KV head on average, the window included.
        window: last rows that score the history; always kept.
        tau1: temperature of the dispersion.
        tau2: temperature of the shift.
        gamma: weight of the variance in the indicator.
        kernel_size: odd width of the average pooling.
        cascade: trim after every layer (peak memory), else once after the last.
        decode: "window", "official" or "none": eviction while tokens are generated.
        compat: None, "official" (rounding, score order and decode of the official code, batch 1) or "official_fp16"
            (its fp16 statistics too).
        decode_slack: tokens that a head may grow by before "window" trims it.
        min_layer_budget: history tokens that every layer gets before the rest is shared.
        sinks: first tokens that are always kept, inside the budget.

    Raises:
        ValueError: capacity <= window, window < 2, tau <= 0, gamma < 0, an even kernel, an unknown option, a number
            that is not finite or (sizes) not whole.
    """

    slug: ClassVar[str] = "cake"
    cascading: ClassVar[bool] = True
    capacity: int = 1024
    window: int = 32
    tau1: float = 1.0
    tau2: float = 1.0
    gamma: float = 200.0
    kernel_size: int = 5
    cascade: bool = True
    decode: str = "window"
    compat: str | None = None
    decode_slack: int = 32
    min_layer_budget: int = 0
    sinks: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.capacity, self.window, self.kernel_size)
        check_choice("decode", self.decode, ("window", "official", "none"))
        check_choice("compat", self.compat, (None, "official", "official_fp16"))
        check_real(tau1=self.tau1, tau2=self.tau2, gamma=self.gamma)
        check_whole(decode_slack=self.decode_slack, min_layer_budget=self.min_layer_budget, sinks=self.sinks)
        if self.gamma < 0:
            raise ValueError(f"gamma = {self.gamma} must not be negative; 0 ranks by the mean alone")
        if self.tau1 <= 0 or self.tau2 <= 0:
            raise ValueError(f"tau1 = {self.tau1} and tau2 = {self.tau2} must be positive")
        if self.decode_slack < 1:
            raise ValueError(f"decode_slack = {self.decode_slack} must be at least 1")
        spare = self.capacity - self.window
        if not 0 <= self.min_layer_budget <= spare or not 0 <= self.sinks <= spare:
            raise ValueError(
                f"min_layer_budget = {self.min_layer_budget} and sinks = {self.sinks} must lie between 0 and {spare}"
            )

    @classmethod
    def for_model(cls, name: str, capacity: int, **kwargs: Any) -> Self:
        """CAKE with the published temperatures of a model; the nearest published capacity counts.

        An unknown model, or a capacity that was not published, gives one warning (the former also tau 1, 1).
        """
        table = TAUS.get(name)
        if table is None:
            warnings.warn(f"no published tau for {name!r} ({', '.join(TAUS)}); tau 1, 1 is used", stacklevel=2)
            return cls(capacity=capacity, **kwargs)
        nearest = min(table, key=lambda known: abs(known - capacity))
        if nearest != capacity:
            warnings.warn(f"no published tau for {name} at {capacity}; that of {nearest} is used", stacklevel=2)
        tau1, tau2 = table[nearest]
        return cls(capacity=capacity, **{"tau1": tau1, "tau2": tau2, **kwargs})

    @property
    def decode_rule(self) -> str:
        """Official compatibility brings the official rule."""
        return "official" if self.compat else self.decode

    @property
    def score_order(self) -> bool:
        """The official code stores kept tokens by falling score."""
        return self.compat is not None

    @property
    def score_key(self) -> tuple[object, ...] | None:
        """The indicator's options; temperatures and capacity come later."""
        return ("cake", self.window, self.gamma, self.kernel_size, self.sinks, self.compat)

    def rows(self, length: int) -> int:
        """The window."""
        return min(self.window, length)

    def protected(self, length: int, layer: int) -> int:
        """The window."""
        return min(self.window, length)

    def evicts(self, length: int) -> bool:
        """Nothing is evicted up to ``capacity + window`` (section 4.4)."""
        return length > self.capacity + self.window

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Indicator (equation 9) with dispersion and shift (equations 5 and 6)."""
        stats = _half_stats(query, key) if self.compat == "official_fp16" else window_stats(query, key)
        score = indicator(stats, key.shape[1], self.gamma, self.kernel_size)[0]
        if self.sinks:
            score[:, : self.sinks] = torch.finfo(score.dtype).max
        return LayerScore(score, float(stats.dispersion[0]), float(stats.shift[0]))

    def preferences(self, scores: Sequence[LayerScore]) -> list[float]:
        """Preference of each layer (equation 7)."""
        high = torch.tensor([score.dispersion for score in scores], dtype=torch.float64)
        low = torch.tensor([score.shift for score in scores], dtype=torch.float64)
        return preference(high, low, self.tau1, self.tau2).tolist()

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """Budgets of all layers seen so far (algorithm 1); None before the last layer without the cascade."""
        if not self.cascade and len(scores) < n_layers:
            return None
        total, cap = (self.capacity - self.window) * n_layers, length - self.window
        values = self.preferences(scores)
        if self.compat:
            return [min(budget, cap) for budget in allocate(values, total, cap, rounding="official")]
        floor = min(self.min_layer_budget, cap)
        shared = allocate(values, max(0, total - floor * n_layers), cap - floor)
        return [budget + floor for budget in shared]


def _half_stats(query: Tensor, key: Tensor) -> WindowStats:
    """Statistics with fp16 probabilities, as the official code computes them.

    Most variances vanish at long contexts.
    """
    from septet.kernels.policies.reference import attention_rows

    history = key.shape[2] - query.shape[2]
    prob = attention_rows(query.float(), key.float()).half()[..., :history]
    var = prob.float().var(dim=2).half().float()
    dispersion = -(prob.float() * torch.log(prob.float() + 1e-10)).sum((1, 2, 3))
    return WindowStats(prob.float().mean(2).half().float(), var, dispersion, var.sum((1, 2)))
