"""Attention over compressed KV caches: one query row per step, or a few appended rows."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from septet.kernels.attention.packed import attend_loop, attend_sdpa, prefill_attention
from septet.kernels.attention.reference import ragged_attention_reference

if TYPE_CHECKING:
    from septet.kernels.cache.ragged import RaggedLayer

__all__ = ["BACKENDS", "append_attention", "decode_attention", "prefill_attention"]

BACKENDS = ("auto", "reference", "sdpa", "loop", "triton", "flash", "flash_attn", "native")


def decode_attention(
    query: Tensor,
    layer: "RaggedLayer",
    *,
    scale: float | None = None,
    backend: str = "auto",
    allow_empty: bool = False,
) -> Tensor:
    """Attention of one new token per sequence over its compressed cache, fp32 accumulation.

    Args:
        query: ``(B, H_q, 1, D)``; query head ``j`` reads KV head ``j // (H_q / H_kv)``.
        layer: cache of one layer, the new token's key and value appended.
        scale: of the logits; default ``D ** -0.5``.
        backend: "auto", "reference", "sdpa" (packed; pads ragged lengths), "loop" (per head), "triton", "flash"
            (PyTorch's own flash kernel for variable lengths, CUDA), "flash_attn" (the package) or "native" (if built).
        allow_empty: give zeros for heads that hold nothing here, instead of an error.

    Returns:
        ``(B, H_q, 1, D)`` in the query's dtype.

    Raises:
        ValueError: heads that do not divide, more than one row, an empty head, another batch or head size, an unknown
            or absent backend.
    """
    if query.ndim != 4 or query.shape[2] != 1:
        raise ValueError(f"decode_attention takes one row, query has shape {tuple(query.shape)}; use append_attention")
    _check(query, layer, backend, allow_empty)
    return _backend(backend, query, layer)(query, layer, scale)


def append_attention(
    query: Tensor, layer: "RaggedLayer", *, scale: float | None = None, allow_empty: bool = False
) -> Tensor:
    """Causal attention of the ``T`` newest tokens, already appended, ``(B, H_q, T, D)``.

    Raises:
        ValueError: as ``decode_attention``.
    """
    _check(query, layer, "auto", allow_empty)
    return attend_sdpa(query, layer, scale)


def _check(query: Tensor, layer: "RaggedLayer", backend: str, allow_empty: bool) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if query.shape[1] % layer.n_kv_heads:
        raise ValueError(f"{query.shape[1]} query heads do not divide over {layer.n_kv_heads} KV heads")
    if query.shape[0] != layer.batch_size or query.shape[3] != layer.head_dim:
        raise ValueError(
            f"query {tuple(query.shape)} does not fit a cache of batch {layer.batch_size}, head size {layer.head_dim}"
        )
    if layer.min_length() == 0 and not allow_empty:
        raise ValueError("a head of the cache is empty; append a token first or pass allow_empty=True")


def _backend(name: str, query: Tensor, layer: "RaggedLayer") -> Callable[[Tensor, "RaggedLayer", float | None], Tensor]:
    """The function behind a name; "auto" picks by device and raggedness."""
    if name == "auto":
        name = _choose(query, layer)
    if name == "reference":
        return ragged_attention_reference
    if name == "sdpa":
        return attend_sdpa
    if name == "loop":
        return attend_loop
    if name == "triton":
        from septet.kernels.attention.triton import attend_triton

        return attend_triton
    if name in ("flash", "flash_attn"):
        from septet.kernels.attention.flash import attend_flash, attend_flash_package

        return attend_flash if name == "flash" else attend_flash_package
    raise ValueError("backend 'native' is not built on this machine; use backend='auto'")


def _choose(query: Tensor, layer: "RaggedLayer") -> str:
    """The backend for a layer: by device, equal or ragged lengths, and type.

    On CUDA the Triton kernel also serves equal lengths: on an H200 it is at most 5 % slower than SDPA and up to 1.6
    times as fast where sequences x KV heads exceed the multiprocessors, for SDPA no longer splits the keys there
    (``benchmarks/cake/*-decode-dense-*.json``). One sequence, bound by launches, stays with SDPA; fp32 too.
    """
    dense = layer.is_even
    if not query.is_cuda:
        return "sdpa" if dense else "loop"
    half = query.dtype in (torch.float16, torch.bfloat16) and layer.dtype == query.dtype
    if dense and (not half or layer.batch_size == 1):
        return "sdpa"
    return "triton" if _has_triton() and query.shape[1] <= 64 * layer.n_kv_heads else "sdpa"


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None
