"""The contract of an eviction policy: scorer, layer allocator, head allocator and decode rule in one frozen dataclass.

A policy is pure arithmetic: it sees one sequence (no batch, no padding) and one layer at a time and keeps no state;
the cache keeps the scores. To add one: subclass ``Policy``, say how many query rows ``rows`` it needs, ``score`` the
history, and override the allocator that differs; add the class to ``POLICIES`` in ``registry.py``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

from torch import Tensor

from septet.kernels.policies.scores import LayerScore, group_reduce, pool, ranked
from septet.kernels.policies.stats import window_stats

ALL_ROWS = -1


def check_window(capacity: int, window: int, kernel_size: int = 5) -> None:
    """Check the sizes that most policies share.

    Raises:
        ValueError: sizes that are no whole numbers, capacity <= window, window < 2 or an even kernel.
    """
    check_whole(capacity=capacity, window=window, kernel_size=kernel_size)
    if window < 2:
        raise ValueError(f"window = {window} is too small to score with; use window >= 2")
    if capacity <= window:
        raise ValueError(f"capacity {capacity} must exceed the window {window}; raise capacity or shrink window")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size = {kernel_size} must be odd; use {kernel_size + 1}")


def check_whole(**sizes: object) -> None:
    """Raise ValueError, with name and value, for the first that is no whole number (64.5, "64" or True)."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} = {value!r} must be a whole number")


def check_real(**numbers: object) -> None:
    """Raise ValueError, with name and value, for the first that is no finite number (nan, inf or "1")."""
    for name, value in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"{name} = {value!r} must be a finite number")


def as_policies(policy: "Policy | Sequence[Policy]") -> "list[Policy]":
    """One policy or several as a list.

    Raises:
        TypeError: for anything else, a name or a mapping among them.
    """
    found = [policy] if isinstance(policy, Policy | str | Mapping) else list(policy)
    for item in found:
        if not isinstance(item, Policy):
            raise TypeError(f"{item!r} is no policy but may name one; make it with build_policy({item!r})")
    return found


def check_choice(option: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Raise ValueError with the choices if ``value`` is none of them."""
    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}; choose one of {', '.join(str(c) for c in choices)}")


@dataclass(frozen=True)
class Policy:
    """Base of all policies; as it stands it keeps everything.

    Sizes are tokens per layer and KV head. ``length`` is the prompt length ``S`` of the one sequence, without padding.
    """

    slug: ClassVar[str] = "policy"
    cascading: ClassVar[bool] = False
    """True if a later layer can change the budget of an earlier one (the cache then keeps the scores)."""

    def check_model(self, n_layers: int, n_kv_heads: int) -> None:
        """Raise ValueError if the policy was made for a model of another shape (tables per layer and head)."""

    @property
    def label(self) -> str:
        """Name in tables and metric keys: ``<slug>-<capacity>``."""
        capacity = getattr(self, "capacity", None)
        return self.slug if capacity is None else f"{self.slug}-{capacity}"

    @property
    def decode_rule(self) -> str:
        """What happens while tokens are generated: "none", "window" or "official"."""
        return "none"

    @property
    def score_order(self) -> bool:
        """True if kept tokens lie in falling score (official compatibility), else in ascending position."""
        return False

    @property
    def score_key(self) -> tuple[object, ...] | None:
        """Policies with equal keys score alike (whatever their budgets), so scores may be shared; None: never."""
        return None

    def rows(self, length: int) -> int:
        """Number of last query rows that ``score`` needs; ``ALL_ROWS`` for every row, 0 for none."""
        return 0

    def protected(self, length: int, layer: int) -> int:
        """Tokens at the end of the prompt that are always kept."""
        return length

    def evicts(self, length: int) -> bool:
        """Whether a prompt of this length is trimmed at all."""
        return False

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Score the history columns of one layer of one sequence.

        Args:
            query: the rows asked for, ``(1, H_q, R, D)``.
            key: ``(1, H_kv, S, D)``.
            layer: index of the layer.
            heads: global indices of the KV heads in ``key`` (a shard may hold some of them only).

        Returns:
            Scores ``(H_kv, S - protected)`` of these heads.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps everything and scores nothing")

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """History tokens per head of the layers seen so far, or None while nothing is to be trimmed."""
        return None

    def head_budgets(self, score: Tensor, budget: int, layer: int) -> list[int]:
        """Split the budget of a layer over its heads: scores ``(H_kv, N)`` of all heads of the layer."""
        return [budget] * score.shape[0]

    def joint(self, score: Tensor) -> Tensor:
        """Combine the scores ``(H_kv, N)`` of all heads of a layer before the budgets are split; default: unchanged."""
        return score

    @property
    def couples_heads(self) -> bool:
        """True if ``joint`` or ``head_budgets`` needs the scores of all heads of a layer.

        A sharded cache must gather them.
        """
        return False

    def select(self, score: Tensor, count: int) -> Tensor:
        """History slots of one head to keep, ``(min(count, N),)`` int64, in the order they are stored."""
        kept = ranked(score, count)
        return kept if self.score_order else kept.sort().values


@dataclass(frozen=True)
class FullCache(Policy):
    """Keep every token (the control)."""

    slug: ClassVar[str] = "full"


@dataclass(frozen=True)
class WindowPolicy(Policy):
    """Score by the mean attention of the last ``window`` rows (SnapKV's observation window) and keep the top tokens.

    Raises:
        ValueError: capacity <= window, window < 2, an even kernel, an unknown pooling or group reduction.
    """

    capacity: int = 1024
    window: int = 32
    kernel_size: int = 5
    pooling: str = "avg"
    group_reduce: str = "mean"

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.capacity, self.window, self.kernel_size)
        check_choice("pooling", self.pooling, ("avg", "max"))
        check_choice("group_reduce", self.group_reduce, ("mean", "max"))

    @property
    def score_key(self) -> tuple[object, ...] | None:
        """The window score's options."""
        return ("window", self.window, self.kernel_size, self.pooling, self.group_reduce)

    def rows(self, length: int) -> int:
        """The observation window."""
        return min(self.window, length)

    def protected(self, length: int, layer: int) -> int:
        """The observation window."""
        return min(self.window, length)

    def evicts(self, length: int) -> bool:
        """Only prompts longer than the capacity."""
        return length > self.capacity

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Mean attention of the window, reduced over the group before pooling."""
        mean = window_stats(query, key).mean
        reduced = group_reduce(mean, key.shape[1], self.group_reduce)
        return LayerScore(pool(reduced, self.kernel_size, self.pooling)[0])

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """The same for every layer."""
        return [self.capacity - self.window] * len(scores)
