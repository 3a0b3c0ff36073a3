"""Rival policies, one frozen dataclass each, the paper cited."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from septet.kernels.policies.allocation import adakv_budgets, pyramid_budget
from septet.kernels.policies.base import ALL_ROWS, Policy, WindowPolicy, check_real, check_whole, check_window
from septet.kernels.policies.scores import LayerScore, column_sums, group_reduce, last_row


@dataclass(frozen=True)
class SnapKV(WindowPolicy):
    """SnapKV (NeurIPS 2024, arXiv 2404.14469): pooled window attention, the same budget in every layer and head."""

    slug: ClassVar[str] = "snapkv"


@dataclass(frozen=True)
class PyramidKV(WindowPolicy):
    """PyramidKV (arXiv 2406.02069): SnapKV's scores, budgets that fall linearly over the layers."""

    slug: ClassVar[str] = "pyramidkv"
    beta: int = 20

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_whole(beta=self.beta)
        if self.beta < 1:
            raise ValueError(f"beta = {self.beta} must be at least 1 (the last layer gets 1/beta of the budget)")

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """Linear from the first to the last layer."""
        budget = self.capacity - self.window
        return [pyramid_budget(layer, n_layers, length, budget, self.window, self.beta) for layer in range(len(scores))]


@dataclass(frozen=True)
class H2O(WindowPolicy):
    """H2O (NeurIPS 2023, arXiv 2306.14048): tokens ranked by the attention received from all rows, no pooling."""

    slug: ClassVar[str] = "h2o"

    @property
    def score_key(self) -> tuple[object, ...] | None:
        """Its own score."""
        return ("h2o", self.window, self.group_reduce)

    def rows(self, length: int) -> int:
        """Every row of the prompt."""
        return ALL_ROWS

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Column sums of the causal attention."""
        history = key.shape[2] - self.protected(key.shape[2], layer)
        return LayerScore(group_reduce(column_sums(query, key)[..., :history], key.shape[1], self.group_reduce)[0])


@dataclass(frozen=True)
class AdaKV(WindowPolicy):
    """AdaKV (arXiv 2407.11550): SnapKV's scores ranked over all heads of a layer together, with a floor per head."""

    slug: ClassVar[str] = "adakv"
    floor: float = 0.2

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_real(floor=self.floor)
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor = {self.floor} must be a share between 0 and 1")

    @property
    def couples_heads(self) -> bool:
        """The joint ranking sees all heads."""
        return True

    def head_budgets(self, score: Tensor, budget: int, layer: int) -> list[int]:
        """Counts in the joint ranking; nothing is evicted when the budget exceeds the history."""
        if budget > score.shape[1]:
            return [score.shape[1]] * score.shape[0]
        return adakv_budgets(score, budget, self.floor)


@dataclass(frozen=True)
class StreamingLLM(Policy):
    """StreamingLLM (ICLR 2024, arXiv 2309.17453): the first ``sinks`` and the last ``capacity - sinks`` tokens."""

    slug: ClassVar[str] = "streamingllm"
    capacity: int = 1024
    sinks: int = 4

    def __post_init__(self) -> None:
        """Check the options."""
        check_whole(capacity=self.capacity, sinks=self.sinks)
        if not 0 <= self.sinks < self.capacity:
            raise ValueError(f"sinks = {self.sinks} must be >= 0 and below the capacity {self.capacity}")

    def protected(self, length: int, layer: int) -> int:
        """The recent tokens."""
        return min(length, self.capacity - self.sinks)

    def evicts(self, length: int) -> bool:
        """Only prompts longer than the capacity."""
        return length > self.capacity

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Earlier is better."""
        history = key.shape[2] - self.protected(key.shape[2], layer)
        return LayerScore(-torch.arange(history, dtype=torch.float32, device=key.device).expand(key.shape[1], -1))

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """The sinks."""
        return [self.sinks] * len(scores)


@dataclass(frozen=True)
class TOVA(Policy):
    """TOVA (arXiv 2401.06104): attention of the last row, mean over all query heads.

    Every head keeps the same tokens.
    """

    slug: ClassVar[str] = "tova"
    capacity: int = 1024

    def __post_init__(self) -> None:
        """Check the options."""
        check_whole(capacity=self.capacity)
        if self.capacity < 2:
            raise ValueError(f"capacity = {self.capacity} leaves no history; use capacity >= 2")

    @property
    def couples_heads(self) -> bool:
        """The mean runs over all heads of the layer."""
        return True

    def rows(self, length: int) -> int:
        """The last row."""
        return 1

    def protected(self, length: int, layer: int) -> int:
        """The last token."""
        return 1

    def evicts(self, length: int) -> bool:
        """Only prompts longer than the capacity."""
        return length > self.capacity

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Mean over the query heads of each KV head; ``joint`` then takes the mean over the KV heads."""
        return LayerScore(group_reduce(last_row(query, key)[..., :-1], key.shape[1])[0])

    def joint(self, score: Tensor) -> Tensor:
        """One score for all heads: ``(H_kv, N)`` of all heads of the layer to the same shape."""
        return score.mean(0, keepdim=True).expand_as(score)

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """All but the last token's place."""
        return [self.capacity - 1] * len(scores)


@dataclass(frozen=True)
class _FixedWindow(Policy):
    """Controls with a protected window and no use for queries."""

    capacity: int = 1024
    window: int = 32

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.capacity, self.window)

    def protected(self, length: int, layer: int) -> int:
        """The window."""
        return min(self.window, length)

    def evicts(self, length: int) -> bool:
        """Only prompts longer than the capacity."""
        return length > self.capacity

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """The same for every layer."""
        return [self.capacity - self.window] * len(scores)


@dataclass(frozen=True)
class KNorm(_FixedWindow):
    """L2 norm of the keys (EMNLP 2024, arXiv 2406.11430): low norms attract attention and stay."""

    slug: ClassVar[str] = "knorm"

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Negative norm."""
        history = key.shape[2] - self.protected(key.shape[2], layer)
        return LayerScore(-key[0, :, :history].float().norm(dim=-1))


@dataclass(frozen=True)
class Random(_FixedWindow):
    """Random tokens and the window; the draw depends on the seed, the layer, the head and the length only."""

    slug: ClassVar[str] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_whole(seed=self.seed)

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Uniform noise, one generator per (layer, head)."""
        history = key.shape[2] - self.protected(key.shape[2], layer)
        rows = []
        for head in heads:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + layer * 1_009 + head)
            rows.append(torch.rand(history, generator=generator))
        return LayerScore(torch.stack(rows).to(key.device))
