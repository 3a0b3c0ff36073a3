"""What part of the heads and rows a cache holds, and how it talks to the other parts (default: everything, alone)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Shard:
    """The KV heads of each layer that live here; subclass it and override ``total`` and ``gather`` to span processes.

    Attributes:
        heads: per layer the global indices of the local KV heads, in local order.
        n_kv_heads: KV heads of the whole model.
        rows: per layer and local head the batch rows ``[start, stop)`` that live here; None: all rows.
    """

    heads: Sequence[Sequence[int]]
    n_kv_heads: int
    rows: Sequence[Sequence[tuple[int, int]]] | None = None

    @classmethod
    def whole(cls, n_layers: int, n_kv_heads: int) -> "Shard":
        """Every head and row."""
        return cls([range(n_kv_heads)] * n_layers, n_kv_heads)

    def local(self, layer: int, row: int) -> list[int]:
        """Local head indices of a layer that hold this row."""
        count = len(self.heads[layer])
        if self.rows is None:
            return list(range(count))
        return [h for h in range(count) if self.rows[layer][h][0] <= row < self.rows[layer][h][1]]

    def is_whole(self) -> bool:
        """True if nothing lives elsewhere."""
        return self.rows is None and all(len(heads) == self.n_kv_heads for heads in self.heads)

    def total(self, statistics: Tensor) -> Tensor:
        """Sum ``(B, 2)`` float64 (dispersion, shift) over all parts; every part calls it once per layer."""
        return statistics

    def gather(self, scores: Sequence[Tensor | None], layer: int) -> Sequence[Tensor | None]:
        """Complete the scores ``(h_local, N)`` of each row to ``(H_kv, N)``; None where a row needs none."""
        return scores
