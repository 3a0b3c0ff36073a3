"""Attention statistics of the last prompt rows (CAKE, ICLR 2025, sections 4.1 and 4.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "torch", "triton")


class WindowStats(NamedTuple):
    """Statistics of the attention of the last ``W`` rows over the ``N = S - W`` history columns.

    Attributes:
        mean: mean over the rows, per query head, ``(B, H_q, N)`` fp32.
        var: unbiased variance over the rows, ``(B, H_q, N)`` fp32.
        dispersion: summed entropy (nats) of the layer, ``(B,)`` fp32.
        shift: summed variance of the layer, ``(B,)`` fp32.
    """

    mean: Tensor
    var: Tensor
    dispersion: Tensor
    shift: Tensor


def check_heads(n_heads: int, n_kv_heads: int) -> int:
    """Return the group size ``g = H_q / H_kv``.

    Raises:
        ValueError: if the query heads cannot be split over the KV heads.
    """
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads do not divide over {n_kv_heads} KV heads; use a multiple")
    return n_heads // n_kv_heads


def _check(query: Tensor, key: Tensor, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    check_heads(query.shape[1], key.shape[1])
    if query.shape[2] < 2:
        raise ValueError(f"a window of {query.shape[2]} rows has no variance; use window >= 2")
    if key.shape[2] < query.shape[2]:
        raise ValueError(f"{key.shape[2]} keys are fewer than the window of {query.shape[2]} rows; shorten the window")


def window_stats(query: Tensor, key: Tensor, *, backend: str = "auto") -> WindowStats:
    """Mean, variance, dispersion and shift of the window rows (CAKE, equations 3 to 6).

    Rows are normalised over all ``S`` keys and not renormalised after the window columns are dropped.

    Args:
        query: the last ``W`` queries, ``(B, H_q, W, D)``, rotary embedding applied.
        key: all keys, ``(B, H_kv, S, D)``.
        backend: "reference" (readable, keeps float64), "torch" (chunked over S) or "triton" (GPU, or the interpreter).

    Returns:
        The statistics; "reference" on float64 inputs stays in float64.

    Raises:
        ValueError: if the heads do not divide, ``W < 2``, ``S < W`` or the backend is unknown.
    """
    _check(query, key, backend)
    if backend == "auto":
        backend = "triton" if query.is_cuda and _has_triton() else "torch"
    if backend == "reference":
        from septet.kernels.policies.reference import window_stats_reference as run
    elif backend == "triton":
        from septet.kernels.policies.triton import window_stats_triton as run
    else:
        run = window_stats_torch
    return run(query, key)


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None


def pack_queries(query: Tensor, n_kv_heads: int) -> Tensor:
    """Put the ``g`` query heads of a KV head side by side: ``(B, H_q, T, D)`` to ``(B, H_kv, g * T, D)``."""
    batch, n_heads, rows, dim = query.shape
    return query.reshape(batch, n_kv_heads, n_heads // n_kv_heads * rows, dim)


def row_logsumexp(query: Tensor, key: Tensor, chunk: int) -> Tensor:
    """Log of the softmax denominator of each window row, ``(B, H_kv, g, W, 1)`` fp32, chunked over the keys."""
    parts = [
        torch.logsumexp(window_logits(query, key, start, min(start + chunk, key.shape[2])), -1, keepdim=True)
        for start in range(0, key.shape[2], chunk)
    ]
    return torch.logsumexp(torch.cat(parts, -1), -1, keepdim=True)


def window_logits(query: Tensor, key: Tensor, start: int, stop: int) -> Tensor:
    """Scaled causal logits of the rows against keys ``start..stop``, ``(B, H_kv, g, W, stop - start)`` fp32."""
    batch, n_heads, rows, dim = query.shape
    length, n_kv_heads = key.shape[2], key.shape[1]
    packed = pack_queries(query, n_kv_heads).float()
    logits: Tensor = packed @ key[:, :, start:stop].float().transpose(-1, -2) * dim**-0.5
    logits = logits.view(batch, n_kv_heads, n_heads // n_kv_heads, rows, stop - start)
    if stop > length - rows + 1:
        row = torch.arange(length - rows, length, device=key.device)[:, None]
        column = torch.arange(start, stop, device=key.device)[None]
        logits = logits.masked_fill(column > row, float("-inf"))
    return logits


def window_stats_torch(query: Tensor, key: Tensor, chunk: int = 4096) -> WindowStats:
    """Two passes over the keys in chunks: denominators first, then the column statistics."""
    batch, n_heads, rows, _ = query.shape
    history = key.shape[2] - rows
    mean = query.new_empty((batch, n_heads, history), dtype=torch.float32)
    var = torch.empty_like(mean)
    dispersion = torch.zeros(batch, dtype=torch.float64, device=query.device)
    shift = torch.zeros_like(dispersion)
    log_z = row_logsumexp(query, key, chunk)
    for start in range(0, history, chunk):
        stop = min(start + chunk, history)
        prob = torch.exp(window_logits(query, key, start, stop) - log_z)
        part_var = prob.var(dim=-2, unbiased=True).reshape(batch, n_heads, stop - start)
        mean[..., start:stop] = prob.mean(dim=-2).reshape(batch, n_heads, stop - start)
        var[..., start:stop] = part_var
        shift += part_var.sum((1, 2), dtype=torch.float64)
        dispersion -= (prob * torch.log(prob + 1e-10)).sum((1, 2, 3, 4), dtype=torch.float64)
    return WindowStats(mean, var, dispersion.float(), shift.float())
