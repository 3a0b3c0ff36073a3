"""PyTorch attention over compressed caches: packed SDPA for equal lengths, a loop over heads for ragged ones."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from septet.kernels.cache.ragged import RaggedLayer


def pack(query: Tensor, n_kv_heads: int) -> Tensor:
    """``(B, H_q, T, D)`` to ``(B, H_kv, g * T, D)``: the group's heads become rows, keys are never repeated."""
    batch, n_heads, count, dim = query.shape
    return query.reshape(batch, n_kv_heads, n_heads // n_kv_heads * count, dim)


def _no_plans(query: Tensor) -> AbstractContextManager[Any]:
    """Keep cuDNN out: it plans anew (about 40 ms) for every length, and a cache has a new length at every step."""
    if not query.is_cuda:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attend_sdpa(query: Tensor, layer: "RaggedLayer", scale: float | None = None) -> Tensor:
    """Packed SDPA; ragged lengths are padded and masked."""
    packed = pack(query, layer.n_kv_heads)
    dense = layer.dense() if query.shape[2] == 1 else None
    if dense is not None:
        with _no_plans(query):
            out = F.scaled_dot_product_attention(
                packed, dense[0].to(query.dtype), dense[1].to(query.dtype), scale=scale
            )
        return out.reshape(query.shape)
    keys, values, _ = layer.padded()
    slot = torch.arange(keys.shape[2], device=query.device)
    steps = torch.arange(query.shape[2], device=query.device)
    last = layer.lengths_tensor[..., None] - query.shape[2] + steps
    allowed = slot <= last[..., None]
    mask = allowed.repeat(1, 1, query.shape[1] // layer.n_kv_heads, 1)
    out = F.scaled_dot_product_attention(
        packed, keys.to(query.dtype), values.to(query.dtype), attn_mask=mask, scale=scale
    )
    return torch.nan_to_num(out).reshape(query.shape) if layer.min_length() == 0 else out.reshape(query.shape)


def attend_loop(query: Tensor, layer: "RaggedLayer", scale: float | None = None) -> Tensor:
    """One small SDPA call per segment: reads exactly the live tokens (the CPU path for ragged caches)."""
    packed = pack(query, layer.n_kv_heads)
    out = torch.zeros_like(packed)
    for b in range(layer.batch_size):
        for h in range(layer.n_kv_heads):
            if layer.length(b, h):
                keys, values = layer.keys(b, h).to(query.dtype), layer.values(b, h).to(query.dtype)
                part = F.scaled_dot_product_attention(
                    packed[b, h][None, None], keys[None, None], values[None, None], scale=scale
                )
                out[b, h] = part[0, 0]
    return out.reshape(query.shape)


def attend_rows(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Causal attention where the ``T`` rows are the last of the ``S >= T`` keys, GQA without repeated keys."""
    count, length = query.shape[2], key.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if count == length:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    row = torch.arange(length - count, length, device=query.device)[:, None]
    mask = torch.arange(length, device=query.device)[None] <= row
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


def prefill_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pads: Sequence[int] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Exact causal attention of a prompt (or of its last rows), each sequence without its left padding.

    Args:
        query: ``(B, H_q, T, D)``, the last ``T`` of ``S`` positions.
        key: ``(B, H_kv, S, D)``.
        value: same shape.
        pads: left padding of each sequence, in columns of ``key``.
        scale: of the logits.

    Returns:
        ``(B, H_q, T, D)``; rows at pads are zero.
    """
    if pads is None or not any(pads):
        return attend_rows(query, key, value, scale)
    out = torch.zeros_like(query)
    offset = key.shape[2] - query.shape[2]
    for b, pad in enumerate(pads):
        first = max(0, pad - offset)
        if first < query.shape[2]:
            part = attend_rows(query[b : b + 1, :, first:], key[b : b + 1, :, pad:], value[b : b + 1, :, pad:], scale)
            out[b, :, first:] = part[0]
    return out
