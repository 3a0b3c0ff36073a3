"""One exact prefill, recorded, from which any number of policies can be applied (prompt outputs do not depend on the policy)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.kernels.attention import prefill_attention
from septet.kernels.cache.compressed import CompressedCache
from septet.kernels.policies.base import ALL_ROWS, Policy


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

    def is_prefilled(self, layer: int) -> bool:
        """Whether the layer has seen the prompt."""
        return layer < len(self.layers)

    def rows_needed(self, lengths: Sequence[int]) -> int:
        """Most rows that any policy asks for."""
        rows = [p.rows(n) for n in lengths for p in self.policies if p.evicts(n)]
        return ALL_ROWS if ALL_ROWS in rows else max(rows, default=0)

    def prefill(self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, pads: Sequence[int] | None = None) -> None:
        """Keep a layer; see ``CompressedCache.prefill``."""
        self.layers.append((query, key, value))
        self.pads = None if pads is None else list(pads)

    def attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, pads: Sequence[int] | None = None, scale: float | None = None
    ) -> Tensor:
        """Exact attention of the prompt; a second call is an error.

        Raises:
            ValueError: if the layer has its prompt already.
        """
        if self.is_prefilled(layer):
            raise ValueError("a recorded prompt takes no further tokens; call compress(policy) and feed that cache")
        self.prefill(layer, query, key, value, pads=pads)
        return prefill_attention(query, key, value, pads=pads, scale=scale)

    def next_positions(self, count: int) -> Tensor:
        """Not available: a recorded prompt takes no further tokens."""
        raise ValueError("a recorded prompt takes no further tokens; call compress(policy) and feed that cache")

    def compress(self, policy: Policy) -> CompressedCache:
        """A cache as the prefill under this policy would have left it (same kept tokens and ``peak_bytes``)."""
        batch = self.layers[0][1].shape[0]
        cache = CompressedCache(policy, self.n_layers, self.n_kv_heads, batch)
        for layer, (query, key, value) in enumerate(self.layers):
            cache.prefill(layer, query, key, value, pads=self.pads)
        return cache

    def attention_recall(self, cache: CompressedCache, rows: int = 8) -> float:
        """Share of the last prompt rows' attention mass that falls on kept tokens, mean over layers, heads and sequences."""
        shares = []
        for layer, (query, key, _) in enumerate(self.layers):
            take = min(rows, query.shape[2])
            if take == 0:
                return 1.0
            shares.append(self._layer_recall(layer, query[:, :, -take:], key, cache))
        return float(torch.stack(shares).mean())

    def _layer_recall(self, layer: int, query: Tensor, key: Tensor, cache: CompressedCache) -> Tensor:
        from septet.kernels.policies.stats import window_logits

        values = []
        for b in range(key.shape[0]):
            pad = self.pads[b] if self.pads else 0
            logits = window_logits(query[b : b + 1], key[b : b + 1, :, pad:], 0, key.shape[2] - pad)
            prob = torch.softmax(logits, -1)[0].mean((1, 2))
            for h in range(self.n_kv_heads):
                values.append(prob[h, cache.positions(layer, b, h)].sum())
        return torch.stack(values).mean()
