"""Readable attention over a ragged cache, in any floating dtype."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from septet.kernels.cache.ragged import RaggedLayer


def ragged_attention_reference(query: Tensor, layer: "RaggedLayer", scale: float | None = None) -> Tensor:
    """Attention of the newest ``T`` tokens over each segment, head by head (softmax(q k / sqrt(D)) v).

    Args:
        query: ``(B, H_q, T, D)``; the last ``T`` slots of every segment are these tokens.
        layer: the cache.
        scale: of the logits; default ``D ** -0.5``.

    Returns:
        ``(B, H_q, T, D)`` in the query's dtype; zeros for an empty segment.
    """
    batch, n_heads, count, dim = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    factor = dim**-0.5 if scale is None else scale
    out = torch.zeros_like(query)
    for b in range(batch):
        for head in range(n_heads):
            h = head // (n_heads // layer.n_kv_heads)
            length = layer.length(b, h)
            if length == 0:
                continue
            logits = query[b, head].to(dtype) @ layer.keys(b, h).to(dtype).T * factor
            row = torch.arange(length - count, length, device=query.device)[:, None]
            future = torch.arange(length, device=query.device)[None] > row
            prob = torch.softmax(logits.masked_fill(future, float("-inf")), -1)
            out[b, head] = (prob @ layer.values(b, h).to(dtype)).to(query.dtype)
    return out
