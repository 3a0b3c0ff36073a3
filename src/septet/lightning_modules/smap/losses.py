"""Losses of SMAP; masked cells, NaN included, reach neither value nor gradient (specification, section 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _clean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values))


def _check(mask: Tensor, *others: Tensor) -> None:
    for x in others:
        if x.shape[: mask.ndim] != mask.shape:
            raise ValueError(f"shapes differ: {tuple(x.shape)} against mask {tuple(mask.shape)}")


def listnet(score: Tensor, z: Tensor, mask: Tensor, temperature: float = 0.25) -> Tensor:
    """Mean over columns with two models or more of ``-sum softmax(-z/T) log softmax(-s/T)``.

    Args:
        score: ``(M, C)``, lower is better.
        z: ``(M, C)`` target losses.
        mask: ``(M, C)`` bool.
        temperature: T.

    Raises:
        ValueError: shapes, or a temperature that is not positive.
    """
    _check(mask, score, z)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    kept = mask.sum(0) >= 2
    if not bool(kept.any()):
        return _clean(score, mask).sum() * 0
    s, t, m = _clean(score, mask)[:, kept], _clean(z, mask)[:, kept], mask[:, kept]
    target = torch.softmax((-t / temperature).masked_fill(~m, -torch.inf), 0)
    logs = torch.log_softmax((-s / temperature).masked_fill(~m, -torch.inf), 0)
    return -(target * torch.where(m, logs, torch.zeros_like(logs))).sum(0).mean()


def bpr(score: Tensor, z: Tensor, mask: Tensor, delta: float = 0.01, temperature: float = 0.25) -> Tensor:
    """Mean over columns of the mean over pairs ``z_i < z_j - delta`` of ``softplus(-(s_j - s_i)/T)``.

    Args:
        score: ``(M, C)``, lower is better.
        z: ``(M, C)`` target losses.
        mask: ``(M, C)`` bool.
        delta: least difference of a pair.
        temperature: T.

    Raises:
        ValueError: shapes, or a temperature that is not positive.
    """
    _check(mask, score, z)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    s, t = _clean(score, mask).T, _clean(z, mask).T
    both = mask.T[:, :, None] & mask.T[:, None, :]
    pairs = (both & (t[:, :, None] < t[:, None, :] - delta)).to(s.dtype)
    terms = functional.softplus(-(s[:, None, :] - s[:, :, None]) / temperature) * pairs
    count = pairs.sum((1, 2))
    kept = count > 0
    if not bool(kept.any()):
        return s.sum() * 0
    return (terms.sum((1, 2))[kept] / count[kept]).mean()


def pinball(pred: Tensor, target: Tensor, quantiles: Tensor | list[float], mask: Tensor) -> Tensor:
    """Masked mean over cells and quantiles of ``max(q e, (q - 1) e)``, ``e = target - pred``.

    Args:
        pred: ``(..., Q)``.
        target: ``(...)``.
        quantiles: ``(Q,)`` in (0, 1).
        mask: ``(...)`` bool.

    Raises:
        ValueError: shapes, or a quantile outside (0, 1).
    """
    q = torch.as_tensor(quantiles, dtype=pred.dtype, device=pred.device)
    _check(mask, pred, target)
    if pred.shape[-1] != len(q) or not bool(((q > 0) & (q < 1)).all()):
        raise ValueError(f"pred {tuple(pred.shape)} must end in the {len(q)} quantiles, each in (0, 1)")
    if not bool(mask.any()):
        return pred.sum() * 0
    e = target[mask][:, None] - pred[mask]
    return torch.maximum(q * e, (q - 1) * e).mean()


def link_bce(logit: Tensor, edge: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross entropy of (scenario, supports, model) links over the masked cells."""
    _check(mask, logit, edge)
    if not bool(mask.any()):
        return logit.sum() * 0
    return functional.binary_cross_entropy_with_logits(logit[mask], edge[mask].to(logit.dtype))
