"""Recall when every model shares the key of a column: two matrix products instead of N x M records."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.kernels.recall.segments import safe_distance


def dense_recall(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    prior: Tensor,
    *,
    temperature: Tensor,
    gate: Tensor,
    tau: float,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`gated_recall` for records on a (column, model) grid.

    Args:
        query: ``(H, Q, D)``.
        keys: ``(H, C, D)``, one key per column.
        values: ``(C, M)``; anything where not seen.
        seen: ``(C, M)`` bool, cells that hold a record.
        prior: ``(Q, M)``.
        temperature: ``(H,)`` log inverse temperature.
        gate: ``(H,)`` or ``(H, Q, M)`` logit.
        tau: distance scale of the trust.
        mask: ``(Q, C)`` bool, columns a query may see.

    Returns:
        scores ``(Q, M)`` and attention over columns ``(H, Q, C)``, exactly 0 on masked columns.

    Raises:
        ValueError: if ``tau <= 0``.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be positive")
    d2 = ((query**2).sum(-1)[:, :, None] + (keys**2).sum(-1)[:, None] - 2 * query @ keys.transpose(1, 2)).clamp_min(0)
    logits = (-torch.exp(temperature)[:, None, None] * d2).masked_fill(~mask, -torch.inf)
    top = logits.detach().amax(-1, keepdim=True)
    weight = torch.exp(logits - torch.where(torch.isfinite(top), top, torch.zeros_like(top)))
    held = seen.to(values.dtype)
    total = weight @ held
    mixed = weight @ torch.where(seen, values, torch.zeros_like(values))
    head = mixed / total.clamp_min(torch.finfo(values.dtype).tiny)
    distance = safe_distance(d2).mean(0).masked_fill(~mask, torch.inf)
    near = _nearest(distance, seen)
    known = torch.isfinite(near) & (total > 0).all(0)
    trust = torch.exp(-torch.where(known, near, torch.zeros_like(near)) / tau)
    gates = torch.sigmoid(gate)[:, None, None] if gate.ndim == 1 else torch.sigmoid(gate)
    pull = (gates * (head - prior)).mean(0)
    attention = weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.where(known, prior + trust * pull, prior), attention


def _nearest(distance: Tensor, seen: Tensor) -> Tensor:
    """Least distance per query and model over the columns where the model has a record, ``(Q, M)``."""
    if bool(seen.all()):
        return distance.amin(1, keepdim=True).expand(-1, seen.shape[1])
    return distance[:, :, None].masked_fill(~seen[None], torch.inf).amin(1)
