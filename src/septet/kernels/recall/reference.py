"""The readable form: one query, one model at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_reference(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest keys by Euclidean distance, ascending; equal distances (12 decimals) by lower index.

    Args:
        query: ``(Q, D)``.
        keys: ``(N, D)``.
        k: how many.

    Returns:
        distance and index, ``(Q, k)``.
    """
    distance, index = [], []
    for q in query:
        d = torch.sqrt(((q - keys) ** 2).sum(-1))
        order = torch.argsort(torch.round(d.double(), decimals=12), stable=True)[:k]
        distance.append(d[order])
        index.append(order)
    return torch.stack(distance), torch.stack(index)


def gated_recall_reference(
    query: Tensor,
    keys: Tensor,
    owner: Tensor,
    values: Tensor,
    prior: Tensor,
    *,
    temperature: Tensor,
    gate: Tensor,
    tau: float,
    mask: Tensor | None = None,
) -> Tensor:
    """As :func:`septet.kernels.recall.gated_recall`, by loops (specification, section 6)."""
    heads, queries, _ = query.shape
    models = prior.shape[-1]
    out = prior.expand(queries, models).clone()
    for q in range(queries):
        for m in range(models):
            allowed = owner == m if mask is None else (owner == m) & mask[q]
            if not bool(allowed.any()):
                continue
            near, total = [], out.new_zeros(())
            for h in range(heads):
                d2 = ((query[h, q] - keys[h, allowed]) ** 2).sum(-1)
                a = torch.softmax(-torch.exp(temperature[h]) * d2, 0)
                total = total + torch.sigmoid(gate[h]) * (
                    (a * values[allowed]).sum() - prior.expand(queries, models)[q, m]
                )
                near.append(torch.sqrt(d2))
            d = torch.stack(near).mean(0).min()
            out[q, m] = prior.expand(queries, models)[q, m] + torch.exp(-d / tau) * total / heads
    return out
