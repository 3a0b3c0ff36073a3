"""Policies with a fixed table per head: HeadKV and DuoAttention; tables may be named by the path of a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from septet.kernels.policies.allocation import headkv_table
from septet.kernels.policies.base import Policy, WindowPolicy, check_choice, check_real, check_whole
from septet.kernels.policies.scores import LayerScore

Table = Any
"""Nested lists, an array, a tensor, or the path of a file.

``gates.tsv``, ``scores.npz`` or ``scores.npz:array_name``.
"""


def load_table(table: Table) -> np.ndarray:
    """Read a table of one row per layer.

    Args:
        table: numbers, or a path; an ``.npz`` of several arrays needs ``path:name``.

    Returns:
        ``(L, H)`` float64.

    Raises:
        ValueError: a missing file, an array name that the file lacks, or a table that is not two-dimensional.
    """
    if isinstance(table, str | Path):
        table = _read(str(table))
    value = np.asarray(table.detach().cpu() if isinstance(table, Tensor) else table, dtype=np.float64)
    if value.ndim != 2 or value.size == 0 or not np.isfinite(value).all():
        raise ValueError(f"a head table has shape {value.shape}; it must be finite numbers (layers, heads)")
    return value


def _read(name: str) -> np.ndarray:
    path, _, array = name.partition(".npz:")
    file = Path(f"{path}.npz" if array else name)
    if not file.is_file():
        raise ValueError(
            f"head table {file} does not exist; published ones: DuoAttention's gates in the GitHub repository "
            "mit-han-lab/duo-attention (attn_patterns/), HeadKV's scores in Zefan-Cai/KVCache-Factory (data/)"
        )
    if file.suffix != ".npz":
        return np.loadtxt(file, ndmin=2)
    with np.load(file) as arrays:
        if not array and len(arrays.files) == 1:
            array = arrays.files[0]
        if array not in arrays.files:
            raise ValueError(f"{file} holds {', '.join(arrays.files)}; name one as {file}:NAME")
        return np.asarray(arrays[array])


@dataclass(frozen=True)
class HeadKV(WindowPolicy):
    """HeadKV (ICLR 2025, arXiv 2410.19258): SnapKV's scores, a fixed history budget per layer and KV head.

    Args:
        table: ``(L, H_kv)`` integers (history tokens), or a file of them; capped at the history.

    Raises:
        ValueError: a table that is not integers >= 0.
    """

    slug: ClassVar[str] = "headkv"
    table: Table = ()
    window: int = 8

    def __init__(
        self,
        table: Table,
        window: int = 8,
        kernel_size: int = 5,
        pooling: str = "avg",
        group_reduce: str = "mean",
    ) -> None:
        """Read and freeze the table."""
        value = load_table(table)
        if (value < 0).any() or (value != np.round(value)).any():
            raise ValueError(
                "HeadKV's table must be integers >= 0; turn scores into one with headkv_table or from_scores"
            )
        rows = tuple(tuple(int(n) for n in row) for row in value)
        object.__setattr__(self, "table", rows)
        for name, item in (("window", window), ("kernel_size", kernel_size), ("pooling", pooling)):
            object.__setattr__(self, name, item)
        object.__setattr__(self, "group_reduce", group_reduce)
        object.__setattr__(self, "capacity", window + max(1, round(float(value.mean()))))
        WindowPolicy.__post_init__(self)

    @classmethod
    def from_scores(cls, scores: Table, n_kv_heads: int, capacity: int, window: int = 8, beta: float = 1.2) -> Self:
        """Build the table from retrieval scores ``(L, H_q)`` or their file (see ``headkv_table``)."""
        table = headkv_table(np.clip(load_table(scores), 0, None), n_kv_heads, capacity, window, beta)
        policy = cls(table, window=window)
        object.__setattr__(policy, "capacity", capacity)
        return policy

    def check_model(self, n_layers: int, n_kv_heads: int) -> None:
        """The table has one row per layer and one number per KV head."""
        _check_table(self.table, n_layers, n_kv_heads)

    def evicts(self, length: int) -> bool:
        """Heads are trimmed one by one, whatever the length."""
        return length > self.window

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """The heads decide."""
        return [round(sum(row) / len(row)) for row in self.table[: len(scores)]]

    def head_budgets(self, score: Tensor, budget: int, layer: int) -> list[int]:
        """The table's row."""
        return [min(n, score.shape[1]) for n in self.table[layer]]

    @property
    def couples_heads(self) -> bool:
        """The row is indexed by the global head."""
        return True


@dataclass(frozen=True)
class DuoAttention(Policy):
    """DuoAttention (ICLR 2025, arXiv 2410.10819): retrieval heads keep all.

    Streaming heads keep sinks and recent tokens.

    Args:
        gates: ``(L, H_kv)``, or the path of a ``full_attention_heads.tsv``.
        sparsity: share of heads, those with the lowest gates, that stream.
        sinks: first tokens that a streaming head keeps.
        recent: last tokens that a streaming head keeps.

    Raises:
        ValueError: gates that are not (layers, heads), a sparsity outside [0, 1], negative sinks or recent < 1.
    """

    slug: ClassVar[str] = "duoattention"
    gates: Table = ()
    sparsity: float = 0.5
    sinks: int = 64
    recent: int = 256

    def __post_init__(self) -> None:
        """Read and freeze the gates; the streaming heads are marked once."""
        value = load_table(self.gates)
        check_real(sparsity=self.sparsity)
        check_whole(sinks=self.sinks, recent=self.recent)
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"sparsity = {self.sparsity} must be a share between 0 and 1")
        if self.sinks < 0 or self.recent < 1:
            raise ValueError(f"sinks = {self.sinks} must be >= 0 and recent = {self.recent} >= 1")
        object.__setattr__(self, "gates", tuple(tuple(float(g) for g in row) for row in value))

    def check_model(self, n_layers: int, n_kv_heads: int) -> None:
        """The gates have one row per layer and one number per KV head."""
        _check_table(self.gates, n_layers, n_kv_heads)

    def streaming(self) -> np.ndarray:
        """Boolean ``(L, H_kv)``: the ``sparsity`` share of all heads with the lowest gates (ties: the earlier head)."""
        value = np.asarray(self.gates)
        count = round(self.sparsity * value.size)
        mask = np.zeros(value.size, dtype=bool)
        mask[np.argsort(value.ravel(), kind="stable")[:count]] = True
        return mask.reshape(value.shape)

    @property
    def label(self) -> str:
        """Name with the sparsity in percent."""
        return f"{self.slug}-{round(100 * self.sparsity)}"

    @property
    def couples_heads(self) -> bool:
        """The row is indexed by the global head."""
        return True

    def protected(self, length: int, layer: int) -> int:
        """The recent tokens."""
        return min(length, self.recent)

    def evicts(self, length: int) -> bool:
        """Prompts longer than a streaming head's share."""
        return length > self.sinks + self.recent

    def score(self, query: Tensor, key: Tensor, layer: int, heads: Sequence[int]) -> LayerScore:
        """Earlier is better (the sinks)."""
        history = key.shape[2] - self.protected(key.shape[2], layer)
        return LayerScore(-torch.arange(history, dtype=torch.float32, device=key.device).expand(key.shape[1], -1))

    def layer_budgets(self, scores: Sequence[LayerScore], n_layers: int, length: int) -> list[int] | None:
        """The heads decide."""
        return [self.sinks] * len(scores)

    def head_budgets(self, score: Tensor, budget: int, layer: int) -> list[int]:
        """The sinks for a streaming head, everything for a retrieval head."""
        history = score.shape[1]
        return [min(self.sinks, history) if streams else history for streams in self.streaming()[layer]]


def _check_table(table: Sequence[Sequence[float]], n_layers: int, n_kv_heads: int) -> None:
    if len(table) != n_layers:
        raise ValueError(f"the head table has {len(table)} layers, the model {n_layers}; use the table of this model")
    if len(table[0]) != n_kv_heads:
        raise ValueError(
            f"the head table has {len(table[0])} heads, the model {n_kv_heads} KV heads; use their group mean"
        )


def with_capacity(policy: Policy, capacity: int) -> Policy:
    """A copy of the policy at another capacity; policies without one (FullCache, HeadKV.

    DuoAttention) are returned as they are.

    Raises:
        ValueError: if the policy refuses the capacity.
    """
    check_choice("policy type", "policy" if isinstance(policy, Policy) else type(policy).__name__, ("policy",))
    if isinstance(policy, HeadKV) or not hasattr(policy, "capacity"):
        return policy
    return replace(policy, capacity=capacity)  # type: ignore[call-arg]
