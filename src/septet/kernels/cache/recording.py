"""One exact prefill, recorded, from which any number of policies can be applied.

Prompt outputs do not depend on the policy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.kernels.attention import prefill_attention
from septet.kernels.cache.compressed import CompressedCache
from septet.kernels.policies.base import ALL_ROWS, Policy
from septet.kernels.policies.scores import LayerScore
from septet.kernels.policies.stats import window_logits

RECALL_ROWS = 8


class RecordedPrompt:
    """Takes the place of a cache during the prefill and keeps every layer's keys, values and last query rows.

    Args:
        policies: the policies that will be applied; they decide how many query rows are kept.
        n_layers: layers of the model.
        n_kv_heads: KV heads of the model.
    """

    def __init__(self, policies: Sequence[Policy], n_layers: int, n_kv_heads: int) -> None:
        """Start empty."""
        self.policies, self.n_layers, self.n_kv_heads = policies, n_layers, n_kv_heads
        self.layers: list[tuple[Tensor, Tensor, Tensor]] = []
        self.pads: list[int] | None = None
        self._memo: dict[tuple[object, ...], LayerScore] = {}
        self._mass: dict[tuple[int, int], Tensor] = {}

    def is_prefilled(self, layer: int) -> bool:
        """Whether the layer has seen the prompt."""
        return layer < len(self.layers)

    def rows_needed(self, lengths: Sequence[int]) -> int:
        """Most rows that any policy asks for, and those of ``attention_recall``."""
        rows = [p.rows(n) for n in lengths for p in self.policies if p.evicts(n)]
        return ALL_ROWS if ALL_ROWS in rows else max([*rows, min(RECALL_ROWS, *lengths)])

    def prefill(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, pads: Sequence[int] | None = None
    ) -> None:
        """Keep a layer; see ``CompressedCache.prefill``."""
        self.layers.append((query, key, value))
        self.pads = None if pads is None else list(pads)

    def attention(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        pads: Sequence[int] | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Exact attention of the prompt; a second call is an error.

        Raises:
            ValueError: if the layer has its prompt already.
        """
        if self.is_prefilled(layer):
            raise ValueError("a recorded prompt takes no further tokens; call compress(policy) and feed that cache")
        self.prefill(layer, query, key, value, pads=pads)
        return prefill_attention(query, key, value, pads=pads, scale=scale)

    def own(self, layer: int, attended: Tensor) -> Tensor:
        """Everything is recorded here; see ``CompressedCache.own``."""
        return attended

    def next_positions(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Not available: a recorded prompt takes no further tokens."""
        raise ValueError("a recorded prompt takes no further tokens; call compress(policy) and feed that cache")

    def compress(self, policy: Policy) -> CompressedCache:
        """A cache as the prefill under this policy would have left it (same kept tokens and ``peak_bytes``)."""
        batch = self.layers[0][1].shape[0]
        cache = CompressedCache(policy, self.n_layers, self.n_kv_heads, batch)
        cache.memo = self._memo
        for layer, (query, key, value) in enumerate(self.layers):
            cache.prefill(layer, query, key, value, pads=self.pads)
        cache.memo = None
        return cache

    def attention_recall(self, cache: CompressedCache) -> float:
        """Share of the last prompt rows' attention mass that falls on kept tokens, mean over layers.

        Heads and sequences.
        """
        shares = [
            self.mass(layer, b)[h, cache.positions(layer, b, h)].sum()
            for layer in range(self.n_layers)
            for b in range(cache.batch_size)
            for h in range(self.n_kv_heads)
        ]
        return float(torch.stack(shares).mean())

    def mass(self, layer: int, row: int) -> Tensor:
        """Attention of the last prompt rows, mean over rows and group, ``(H_kv, S)``; computed once."""
        if (layer, row) not in self._mass:
            query, key, _ = self.layers[layer]
            pad = self.pads[row] if self.pads else 0
            keys = key[row : row + 1, :, pad:]
            logits = window_logits(query[row : row + 1, :, -RECALL_ROWS:], keys, 0, keys.shape[2])
            self._mass[layer, row] = torch.softmax(logits, -1)[0].mean((1, 2))
        return self._mass[layer, row]
