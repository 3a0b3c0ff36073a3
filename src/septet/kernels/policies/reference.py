"""Readable statements of the attention statistics, in any floating dtype.

The fast versions are tested against them.
"""

import torch
from torch import Tensor

from septet.kernels.policies.stats import WindowStats, check_heads


def attention_rows(query: Tensor, key: Tensor) -> Tensor:
    """Causal softmax of the last ``R`` rows over all keys.

    Args:
        query: ``(B, H_q, R, D)``, the last ``R`` of ``S`` positions.
        key: ``(B, H_kv, S, D)``.

    Returns:
        Probabilities ``(B, H_q, R, S)``.
    """
    group = check_heads(query.shape[1], key.shape[1])
    rows, length = query.shape[2], key.shape[2]
    logits = query @ key.repeat_interleave(group, dim=1).transpose(-1, -2) * query.shape[-1] ** -0.5
    future = torch.ones(rows, length, dtype=torch.bool, device=key.device).triu(length - rows + 1)
    return torch.softmax(logits.masked_fill(future, float("-inf")), dim=-1)


def window_stats_reference(query: Tensor, key: Tensor) -> WindowStats:
    """Statistics of ``septet.kernels.policies.window_stats`` by the book (CAKE, equations 3 to 6)."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    prob = attention_rows(query.to(dtype), key.to(dtype))[..., : key.shape[2] - query.shape[2]]
    var = prob.var(dim=2, unbiased=True) if prob.shape[-1] else prob.new_zeros(prob[:, :, 0].shape)
    dispersion = -(prob * torch.log(prob + 1e-10)).sum((1, 2, 3))
    return WindowStats(prob.mean(dim=2), var, dispersion, var.sum((1, 2)))
