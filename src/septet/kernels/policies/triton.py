"""Triton statistics of the window rows: denominators in split chunks, then mean, variance.

Entropy and shift by column tiles.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from septet.kernels.policies.stats import WindowStats


@triton.jit
def _denominator_kernel(  # noqa: ANN202
    query,  # noqa: ANN001
    key,  # noqa: ANN001
    partial,  # noqa: ANN001
    scale,  # noqa: ANN001
    stride_kb,  # noqa: ANN001
    stride_kh,  # noqa: ANN001
    stride_ks,  # noqa: ANN001
    length,  # noqa: ANN001
    heads,  # noqa: ANN001
    group,  # noqa: ANN001
    chunks,  # noqa: ANN001
    ROWS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Log-sum-exp of the rows of one query head over one chunk of keys."""
    bh = tl.program_id(0)
    part = tl.program_id(1)
    batch = bh // heads
    kv = (bh % heads) // group
    row = tl.arange(0, ROWS_PAD)
    column = tl.arange(0, DIM_PAD)
    live = (row < ROWS)[:, None] & (column < DIM)[None, :]
    q = tl.load(query + (bh * ROWS + row)[:, None] * DIM + column[None, :], mask=live, other=0.0)
    base = key + batch * stride_kb + kv * stride_kh
    top = tl.full((ROWS_PAD,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS_PAD,), tl.float32)
    limit = length - ROWS + row
    for begin in range(part * CHUNK, tl.minimum((part + 1) * CHUNK, length), BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        mask = (slot < length)[:, None] & (column < DIM)[None, :]
        k = tl.load(base + slot[:, None] * stride_ks + column[None, :], mask=mask, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = (slot[None, :] <= limit[:, None]) & (slot < length)[None, :]
        logits = tl.where(seen, logits, -1.0e30)
        new_top = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp(top - new_top) + tl.sum(tl.where(seen, tl.exp(logits - new_top[:, None]), 0.0), 1)
        top = new_top
    result = tl.where(total > 0.0, top + tl.log(tl.where(total > 0.0, total, 1.0)), -float("inf"))
    tl.store(partial + (bh * chunks + part) * ROWS_PAD + row, result)


@triton.jit
def _column_kernel(  # noqa: ANN202
    query,  # noqa: ANN001
    key,  # noqa: ANN001
    log_z,  # noqa: ANN001
    mean,  # noqa: ANN001
    var,  # noqa: ANN001
    sums,  # noqa: ANN001
    scale,  # noqa: ANN001
    stride_kb,  # noqa: ANN001
    stride_kh,  # noqa: ANN001
    stride_ks,  # noqa: ANN001
    history,  # noqa: ANN001
    heads,  # noqa: ANN001
    group,  # noqa: ANN001
    tiles,  # noqa: ANN001
    ROWS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Mean and variance of one tile of columns of one query head, and its share of entropy and shift."""
    bh = tl.program_id(0)
    tile = tl.program_id(1)
    batch = bh // heads
    kv = (bh % heads) // group
    row = tl.arange(0, ROWS_PAD)
    column = tl.arange(0, DIM_PAD)
    live_row = row < ROWS
    live = live_row[:, None] & (column < DIM)[None, :]
    q = tl.load(query + (bh * ROWS + row)[:, None] * DIM + column[None, :], mask=live, other=0.0)
    z = tl.load(log_z + bh * ROWS + row, mask=live_row, other=0.0)
    slot = tile * BLOCK + tl.arange(0, BLOCK)
    inside = slot < history
    base = key + batch * stride_kb + kv * stride_kh
    mask = inside[:, None] & (column < DIM)[None, :]
    k = tl.load(base + slot[:, None] * stride_ks + column[None, :], mask=mask, other=0.0)
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    real = live_row[:, None] & inside[None, :]
    prob = tl.where(real, tl.exp(logits - z[:, None]), 0.0)
    average = tl.sum(prob, 0) / ROWS
    away = tl.where(real, prob - average[None, :], 0.0)
    variance = tl.sum(away * away, 0) / (ROWS - 1)
    tl.store(mean + bh * history + slot, average, mask=inside)
    tl.store(var + bh * history + slot, variance, mask=inside)
    entropy = -tl.sum(tl.sum(prob * tl.log(prob + 1.0e-10), 1), 0)
    tl.store(sums + (bh * tiles + tile) * 2, entropy)
    tl.store(sums + (bh * tiles + tile) * 2 + 1, tl.sum(variance, 0))


def window_stats_triton(query: Tensor, key: Tensor) -> WindowStats:
    """See ``window_stats``; CUDA, or CPU tensors under ``TRITON_INTERPRET=1``."""
    batch, heads, rows, dim = query.shape
    group, length = heads // key.shape[1], key.shape[2]
    history = length - rows
    rows_pad, dim_pad = max(16, triton.next_power_of_2(rows)), max(16, triton.next_power_of_2(dim))
    query, block, chunk = query.contiguous(), 64, 1024
    if not query.is_cuda or key.dtype != query.dtype:
        query, key = query.float(), key.float()  # the interpreter's products are wrong for bf16
    key = key if key.stride(3) == 1 else key.contiguous()
    chunks, tiles = triton.cdiv(length, chunk), max(1, triton.cdiv(history, block))
    options = {"dtype": torch.float32, "device": query.device}
    partial = torch.empty(batch * heads, chunks, rows_pad, **options)  # type: ignore[call-overload]
    shape: dict[str, Any] = {"ROWS": rows, "ROWS_PAD": rows_pad, "DIM": dim, "DIM_PAD": dim_pad, "BLOCK": block}
    shape["PRECISION"] = "tf32x3" if query.is_cuda and query.dtype == torch.float32 else "ieee"
    strides = (key.stride(0), key.stride(1), key.stride(2))
    _denominator_kernel[(batch * heads, chunks)](
        query, key, partial, dim**-0.5, *strides, length, heads, group, chunks, CHUNK=chunk, **shape
    )
    log_z = torch.logsumexp(partial[..., :rows], 1).contiguous()
    mean = torch.empty(batch, heads, history, **options)  # type: ignore[call-overload]
    var = torch.empty_like(mean)
    sums = torch.zeros(batch * heads, tiles, 2, **options)  # type: ignore[call-overload]
    if history:
        _column_kernel[(batch * heads, tiles)](
            query, key, log_z, mean, var, sums, dim**-0.5, *strides, history, heads, group, tiles, **shape
        )
    totals = sums.view(batch, -1, 2).double().sum(1).float()
    return WindowStats(mean, var, totals[:, 0], totals[:, 1])
