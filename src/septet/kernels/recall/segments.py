"""Vectorised recall: all queries and models at once, softmax over the records of each model by segment sums."""

from __future__ import annotations

import torch
from torch import Tensor


def topk(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest keys by Euclidean distance, ascending; equal distances (12 decimals) by lower index.

    Args:
        query: ``(Q, D)`` float32 or float64.
        keys: ``(N, D)`` of the same dtype.
        k: how many.

    Returns:
        distance ``(Q, k)`` and index ``(Q, k)`` int64.

    Raises:
        ValueError: shapes that do not fit, or k outside 1..N.
    """
    if query.ndim != 2 or keys.ndim != 2 or query.shape[1] != keys.shape[1]:
        raise ValueError(f"query {tuple(query.shape)} and keys {tuple(keys.shape)} must be (Q, D) and (N, D)")
    if not 1 <= k <= len(keys):
        raise ValueError(f"k is {k}: there are {len(keys)} keys")
    distance = torch.cdist(query, keys, compute_mode="donot_use_mm_for_euclid_dist")
    rounded = torch.round(distance.detach().double(), decimals=12)
    index = torch.argsort(rounded, dim=1, stable=True)[:, :k] if k * 8 > len(keys) else _partial(rounded, k)
    return distance.gather(1, index), index


def _partial(rounded: Tensor, k: int) -> Tensor:
    """Stable order of the k smallest without sorting all: every candidate at or below the k-th value is kept."""
    worst = rounded.kthvalue(k, dim=1).values
    found = []
    for row, limit in zip(rounded, worst, strict=True):
        candidates = torch.nonzero(row <= limit).squeeze(1)
        found.append(candidates[torch.argsort(row[candidates], stable=True)[:k]])
    return torch.stack(found)


def safe_distance(d2: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 rather than infinite."""
    positive = d2 > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, d2, torch.ones_like(d2))), torch.zeros_like(d2))


def _check(
    query: Tensor, keys: Tensor, owner: Tensor, values: Tensor, prior: Tensor, heads: tuple[Tensor, Tensor]
) -> None:
    if query.ndim != 3 or keys.ndim != 3 or query.shape[0] != keys.shape[0] or query.shape[2] != keys.shape[2]:
        raise ValueError(f"query {tuple(query.shape)} and keys {tuple(keys.shape)} must be (H, Q, D) and (H, N, D)")
    if owner.shape != values.shape or owner.shape != keys.shape[1:2]:
        raise ValueError(
            f"owner {tuple(owner.shape)} and values {tuple(values.shape)} must have the keys' {keys.shape[1]}"
        )
    if prior.ndim not in (1, 2) or (prior.ndim == 2 and prior.shape[0] not in (1, query.shape[1])):
        raise ValueError(f"prior is {tuple(prior.shape)}; want (M,) or (Q, M) with Q = {query.shape[1]}")
    if any(x.shape != query.shape[:1] for x in heads):
        raise ValueError(f"temperature and gate must be ({query.shape[0]},), one per head")
    if len(owner) and (int(owner.min()) < 0 or int(owner.max()) >= prior.shape[-1]):
        raise ValueError(f"owner holds {int(owner.min())}..{int(owner.max())}; the prior has {prior.shape[-1]} models")


def gated_recall(
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
    """Prior + gated attention over each model's own records, faded out with distance (specification, section 6).

    Per head, over the records i of model m: ``a = softmax(-exp(temperature_h) |q_h - k_hi|^2)``,
    ``head = sum a v``; ``out = prior + exp(-d / tau) sum_h sigmoid(gate_h) (head_h - prior) / H`` with d the least
    head-mean distance.

    Args:
        query: ``(H, Q, D)``.
        keys: ``(H, N, D)``.
        owner: ``(N,)`` int64, the model of each record.
        values: ``(N,)``.
        prior: ``(M,)`` or ``(Q, M)``; what a model without an allowed record gets.
        temperature: ``(H,)``, log inverse temperature.
        gate: ``(H,)``, logit.
        tau: distance at which trust has fallen to 1/e.
        mask: ``(Q, N)`` bool, True where a query may see a record.

    Returns:
        ``(Q, M)``.

    Raises:
        ValueError: shapes that do not fit, an owner out of range, or ``tau <= 0``.
    """
    _check(query, keys, owner, values, prior, (temperature, gate))
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be positive")
    queries, records, models = query.shape[1], keys.shape[1], prior.shape[-1]
    if mask is not None and mask.shape != (queries, records):
        raise ValueError(f"mask is {tuple(mask.shape)}; want ({queries}, {records})")
    base = prior.expand(queries, models)
    if records == 0:
        return base.clone()
    allowed = torch.ones(queries, records, dtype=torch.bool, device=query.device) if mask is None else mask
    d2 = ((query[:, :, None] - keys[:, None]) ** 2).sum(-1)
    logits = (-torch.exp(temperature)[:, None, None] * d2).masked_fill(~allowed, -torch.inf)
    head = _segment_attention(logits, torch.where(allowed, values, torch.zeros_like(values)), owner, models)
    distance = safe_distance(d2).mean(0).masked_fill(~allowed, torch.inf)
    near = _segment_min(distance, owner, models)
    seen = torch.isfinite(near)
    trust = torch.exp(-torch.where(seen, near, torch.zeros_like(near)) / tau)
    pull = (torch.sigmoid(gate)[:, None, None] * (head - base)).mean(0)
    return torch.where(seen, base + trust * pull, base)


def _segment_attention(logits: Tensor, values: Tensor, owner: Tensor, models: int) -> Tensor:
    """Softmax-weighted values per model, ``(H, Q, M)``; a model without a finite logit gets 0."""
    heads, queries, _ = logits.shape
    index = owner.expand(heads, queries, -1)
    top = logits.new_full((heads, queries, models), -torch.inf).scatter_reduce(2, index, logits.detach(), "amax")
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    weight = torch.exp(logits - top.gather(2, index))
    total = logits.new_zeros(heads, queries, models).scatter_add(2, index, weight)
    mixed = logits.new_zeros(heads, queries, models).scatter_add(2, index, weight * values)
    return mixed / torch.where(total > 0, total, torch.ones_like(total))


def _segment_min(distance: Tensor, owner: Tensor, models: int) -> Tensor:
    index = owner.expand_as(distance)
    start = distance.new_full((distance.shape[0], models), torch.inf)
    return start.scatter_reduce(1, index, distance, "amin")
