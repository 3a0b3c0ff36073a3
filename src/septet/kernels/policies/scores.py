"""Token scores: what a policy ranks the history columns by."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.kernels.policies.stats import WindowStats, check_heads, row_logsumexp, window_logits


class LayerScore(NamedTuple):
    """Scores of one layer of one sequence.

    Attributes:
        score: importance of each history column, ``(H_kv, N)`` fp32, higher stays.
        dispersion: summed entropy of the layer (CAKE), 0 where the policy has no use for it.
        shift: summed variance of the layer (CAKE), likewise.
    """

    score: Tensor
    dispersion: float = 0.0
    shift: float = 0.0


def preference(dispersion: Tensor, shift: Tensor, tau1: float = 1.0, tau2: float = 1.0) -> Tensor:
    """Layer preference ``P = H^(1/tau1) * V^(1/tau2)`` (CAKE, equation 7), through logarithms.

    Args:
        dispersion: ``H``, any shape.
        shift: ``V``, same shape.
        tau1: temperature of the dispersion.
        tau2: temperature of the shift.

    Returns:
        float64, same shape; exponents are clamped so that it never overflows.

    Raises:
        ValueError: if a temperature is not positive.
    """
    if tau1 <= 0 or tau2 <= 0:
        raise ValueError(f"tau1 = {tau1} and tau2 = {tau2} must be positive")
    high, low = dispersion.double(), shift.double()
    log_p = high.clamp(min=0).log() / tau1 + low.clamp(min=0).log() / tau2
    positive = torch.exp(log_p.clamp(-690.0, 690.0))
    return torch.where((high > 0) & (low > 0), positive, torch.zeros_like(positive))


def pool(score: Tensor, kernel_size: int = 5, pooling: str = "avg") -> Tensor:
    """Pool ``(..., N)`` over neighbouring columns, stride 1; "avg" pads with zeros and always divides by the kernel.

    Raises:
        ValueError: if the kernel is even or the pooling is unknown.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size = {kernel_size} must be odd; use {kernel_size + 1}")
    if pooling not in ("avg", "max"):
        raise ValueError(f"unknown pooling {pooling!r}; choose avg or max")
    if score.shape[-1] == 0 or kernel_size == 1:
        return score
    flat = score.reshape(-1, 1, score.shape[-1])
    run = F.avg_pool1d if pooling == "avg" else F.max_pool1d
    return run(flat, kernel_size, stride=1, padding=kernel_size // 2).view(score.shape)


def group_reduce(score: Tensor, n_kv_heads: int, how: str = "mean") -> Tensor:
    """Reduce ``(B, H_q, N)`` to ``(B, H_kv, N)`` over the query heads of each KV head ("mean" or "max").

    Raises:
        ValueError: if the heads do not divide or ``how`` is unknown.
    """
    group = check_heads(score.shape[1], n_kv_heads)
    if how not in ("mean", "max"):
        raise ValueError(f"unknown group_reduce {how!r}; choose mean or max")
    grouped = score.view(score.shape[0], n_kv_heads, group, score.shape[-1])
    return grouped.mean(2) if how == "mean" else grouped.amax(2)


def indicator(stats: WindowStats, n_kv_heads: int, gamma: float = 200.0, kernel_size: int = 5) -> Tensor:
    """Eviction indicator ``I = mean + gamma * var``, pooled, then the group mean (CAKE, equation 9).

    Args:
        stats: from ``window_stats``.
        n_kv_heads: number of KV heads.
        gamma: weight of the variance.
        kernel_size: odd width of the average pooling.

    Returns:
        ``(B, H_kv, N)`` fp32.

    Raises:
        ValueError: if the kernel is even or the heads do not divide.
    """
    return group_reduce(pool(stats.mean + gamma * stats.var, kernel_size), n_kv_heads)


def column_sums(query: Tensor, key: Tensor, chunk: int = 256) -> Tensor:
    """Attention that each key receives from all causal rows (H2O, NeurIPS 2023), ``(B, H_q, S)`` fp32.

    Args:
        query: all queries, ``(B, H_q, S, D)``.
        key: ``(B, H_kv, S, D)``.
        chunk: query rows at a time.
    """
    batch, n_heads, length, _ = query.shape
    total = query.new_zeros((batch, n_heads, length), dtype=torch.float32)
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        rows, keys = query[:, :, start:stop], key[:, :, :stop]
        prob = torch.softmax(window_logits(rows, keys, 0, stop), -1)
        total[..., :stop] += prob.sum(-2).reshape(batch, n_heads, stop)
    return total


def last_row(query: Tensor, key: Tensor) -> Tensor:
    """Attention of the last query over all keys, ``(B, H_q, S)`` fp32.

    Query ``(B, H_q, R, D)``, the last row counts.
    """
    logits = window_logits(query[:, :, -1:], key, 0, key.shape[2])
    prob = torch.exp(logits - row_logsumexp(query[:, :, -1:], key, key.shape[2]))
    return prob.reshape(query.shape[0], query.shape[1], key.shape[2])


def ranked(score: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of ``(N,)``, best first; ties go to the lower index on every device."""
    return torch.sort(score, descending=True, stable=True).indices[:count]
