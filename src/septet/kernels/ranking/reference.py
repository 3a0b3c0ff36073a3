"""The readable evaluator: one query at a time, a full ordering of its gallery."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septet.kernels.ranking.protocols import Protocol, Ranking, Ties, summarise


def rank_row(
    distance: NDArray[np.floating], match: NDArray[np.bool_], ids: NDArray[np.int64], ties: Ties, identity: bool
) -> tuple[int, float, float]:
    """Rank of the first match, average precision and inverse negative penalty of one query.

    Args:
        distance: ``(G,)`` of the images that are not excluded, in gallery order.
        match: ``(G,)`` whether the image shows the query's identity.
        ids: ``(G,)`` identities.
        ties: order of equal distances: gallery order, matches first, or matches last.
        identity: count different identities before the first match instead of images.

    Returns:
        (rank, ap, inp); (-1, NaN, NaN) without a match.
    """
    if not match.any():
        return -1, float("nan"), float("nan")
    second = {"stable": np.zeros_like(match), "optimistic": ~match, "pessimistic": match}[ties]
    order = np.lexsort((second, distance))
    hits = match[order]
    position = np.flatnonzero(hits) + 1
    rank = int(position[0]) - 1
    if identity:
        rank = len(np.unique(ids[order[:rank]]))
    precision = np.arange(1, len(position) + 1) / position
    return rank, float(precision.mean()), len(position) / float(position[-1])


def rank_distances(
    distance: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cams: Tensor,
    gallery_cams: Tensor,
    *,
    protocol: Protocol,
    topk: int = 20,
    ties: Ties = "stable",
) -> Ranking:
    """Evaluate a distance matrix ``(Q, G)`` by :func:`rank_row`, query by query."""
    excluded = protocol.excluded(query_ids, query_cams, gallery_ids, gallery_cams).numpy()
    match = (query_ids[:, None] == gallery_ids[None]).numpy()
    table, ids = distance.numpy(), gallery_ids.numpy()
    rows = []
    for i in range(len(table)):
        kept = ~excluded[i]
        rows.append(rank_row(table[i][kept], match[i][kept], ids[kept], ties, protocol.cmc == "identity"))
    rank, ap, inp = zip(*rows, strict=True)
    wide = torch.float64
    return summarise(torch.tensor(rank), torch.tensor(ap, dtype=wide), torch.tensor(inp, dtype=wide), topk)
