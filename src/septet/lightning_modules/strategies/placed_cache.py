"""The cache of one process under a head plan, and what it says about the loads actually met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from septet.kernels.cache import CompressedCache, Shard


@dataclass
class Met:
    """What one policy left in the caches of this process after its prompts.

    Attributes:
        tokens: ``(L, H_kv)`` float64, kept tokens summed over the rows served here.
        kv_bytes: live bytes of keys and values of each batch.
        batches: number of batches.
    """

    tokens: Tensor
    kv_bytes: list[int] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.kv_bytes)


class PlacedCache(CompressedCache):
    """A :class:`CompressedCache` of the heads and rows of one process.

    Which rows are served is worked out once per layer, and a layer that serves all of them needs no mask. After the
    last layer's prefill the kept tokens are filed in ``met`` by the policy's label.
    """

    met: dict[str, Met] | None = None

    def prefill(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, pads: Sequence[int] | None = None
    ) -> None:
        """As :meth:`CompressedCache.prefill`; the last layer's also files what was kept."""
        super().prefill(layer, query, key, value, pads=pads)
        if layer == self.n_layers - 1 and self.met is not None:
            self._file(self.met)

    def _mask(self, layer: int) -> Tensor | None:
        """Served (row, head) pairs ``(B, h)``; None if all are."""
        masks = self.__dict__.setdefault("_masks", {})
        if layer not in masks:
            mask = super()._mask(layer)
            masks[layer] = None if mask is None or bool(mask.all()) else mask
        known: Tensor | None = masks[layer]
        return known

    def _file(self, met: dict[str, Met]) -> None:
        label = self.policies[0].label
        if label not in met:
            met[label] = Met(torch.zeros(self.n_layers, self.n_kv_heads, dtype=torch.float64))
        for layer in range(self.n_layers):
            heads = list(self.shard.heads[layer])
            if heads:
                met[label].tokens[layer, heads] += self.lengths(layer).sum(dim=0).to(torch.float64)
        met[label].kv_bytes.append(self.memory_bytes())


def planned_kv_bytes(shard: Shard, head_tokens: Tensor, token_bytes: int) -> float:
    """KV bytes that a process holds if every row keeps ``head_tokens`` ``(L, H_kv)`` tokens."""
    assert shard.rows is not None
    total = 0.0
    for layer, (heads, rows) in enumerate(zip(shard.heads, shard.rows, strict=True)):
        for head, (start, stop) in zip(heads, rows, strict=True):
            total += float(head_tokens[layer, head]) * (stop - start)
    return total * token_bytes
