"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), with sparse neighbour sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

CHUNK = 1024


def check_rerank(settings: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that :func:`rerank` cannot use, whatever the images.

    Raises:
        ValueError: unknown keys, ``k1`` or ``k2`` no whole number of at least 1, ``weight`` outside 0..1.
    """
    unknown = sorted(set(settings) - {"k1", "k2", "weight"})
    if unknown:
        raise ValueError(f"unknown rerank.{unknown[0]}: choose from k1, k2, weight")
    for name in ("k1", "k2"):
        value = settings.get(name, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"rerank.{name}={value}: give a whole number of at least 1")
    weight = settings.get("weight", 0.3)
    if not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f"rerank.weight={weight} is outside 0..1")


def rerank(query: Any, gallery: Any, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Tensor:
    """Distances re-ranked by k-reciprocal neighbours, among queries and gallery together.

    Args:
        query: ``(Q, D)`` features.
        gallery: ``(G, D)`` features.
        k1: neighbours of a reciprocal set.
        k2: neighbours averaged by the local query expansion (1: none).
        weight: share of the original distance in the result.

    Returns:
        ``(Q, G)`` float32, smaller is nearer.

    Raises:
        ValueError: ``k1`` or ``k2`` out of range, ``weight`` outside 0..1, NaN in the features.
    """
    features = torch.cat([torch.as_tensor(query), torch.as_tensor(gallery)]).to("cpu", torch.float32)
    count, queries = len(features), len(query)
    if not 1 <= k1 < count or not 1 <= k2 <= count:
        raise ValueError(f"k1={k1}, k2={k2}: with {count} images k1 must lie in 1..{count - 1} and k2 in 1..{count}")
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight={weight} is outside 0..1")
    if bool(torch.isnan(features).any()):
        raise ValueError("features hold NaN: the network diverged or an image was bad")
    nearest, original = _neighbours(features, queries, max(k1 + 1, k2))
    reciprocal = _reciprocal(nearest, k1)
    half = _reciprocal(nearest, int(np.around(k1 / 2)))
    encoding = _encode(features, _expand(reciprocal, half))
    if k2 > 1:
        mean = _indicator(nearest[:, :k2]) / k2
        encoding = (mean @ encoding).tocsr()
    shared = _shared_mass(encoding[:queries], encoding[queries:])
    jaccard = 1 - shared / (2 - shared)
    return torch.from_numpy((1 - weight) * jaccard + weight * original)


def _scaled(features: Tensor, norms: Tensor, rows: slice) -> Tensor:
    """Squared distances of some rows to all, each row divided by its maximum."""
    squared = norms[rows, None] + norms[None] - 2 * (features[rows] @ features.T)
    return squared / squared.amax(1, keepdim=True).clamp_min(1e-12)


def _neighbours(features: Tensor, queries: int, k: int) -> tuple[Any, Any]:
    """The ``k`` nearest of every image, nearest first, and the query-gallery part of the distances."""
    norms = features.square().sum(1)
    nearest, original = [], []
    for start in range(0, len(features), CHUNK):
        block = _scaled(features, norms, slice(start, start + CHUNK))
        nearest.append(block.topk(k, largest=False, sorted=True).indices.numpy())
        if start < queries:
            original.append(block[: queries - start, queries:].numpy())
    return np.concatenate(nearest), np.concatenate(original)


def _indicator(nearest: Any) -> Any:
    """Sparse ``(N, N)`` of ones at the listed neighbours."""
    count, k = nearest.shape
    starts = np.arange(0, count * k + 1, k)
    return sparse.csr_matrix((np.ones(count * k, np.float32), nearest.ravel(), starts), shape=(count, count))


def _reciprocal(nearest: Any, k: int) -> Any:
    """R(i) = {j in N(i, k): i in N(j, k)} as a sparse matrix of ones."""
    inside = _indicator(nearest[:, : k + 1])
    return inside.multiply(inside.T).tocsr()


def _expand(reciprocal: Any, half: Any) -> Any:
    """Join R_half(j) for those j in R(i) of which over two thirds lie in R(i)."""
    overlap = reciprocal.multiply(reciprocal @ half.T).tocoo()
    size = np.asarray(half.sum(1)).ravel()
    keep = overlap.data > 2 / 3 * size[overlap.col]
    chosen = sparse.csr_matrix(
        (np.ones(int(keep.sum()), np.float32), (overlap.row[keep], overlap.col[keep])), shape=reciprocal.shape
    )
    return (reciprocal + chosen @ half).tocsr()


def _encode(features: Tensor, members: Any) -> Any:
    """V: exp(-d) on the members of each row, sum 1."""
    norms = features.square().sum(1)
    data = np.empty(members.nnz, np.float32)
    for start in range(0, len(features), CHUNK):
        block = _scaled(features, norms, slice(start, start + CHUNK)).numpy()
        stop = start + len(block)
        a, b = members.indptr[start], members.indptr[stop]
        row = np.repeat(np.arange(len(block)), np.diff(members.indptr[start : stop + 1]))
        data[a:b] = np.exp(-block[row, members.indices[a:b]])
    encoding = sparse.csr_matrix((data, members.indices, members.indptr), shape=members.shape)
    total = np.asarray(encoding.sum(1)).ravel()
    return sparse.diags((1 / total).astype(np.float32)) @ encoding


def _shared_mass(query: Any, gallery: Any) -> Any:
    """Sum of minima ``(Q, G)`` of two sparse encodings, some gallery rows at a time."""
    shared = np.zeros((query.shape[0], gallery.shape[0]), np.float32)
    query = query.tocsr()
    for start in range(0, gallery.shape[0], CHUNK):
        columns = np.ascontiguousarray(gallery[start : start + CHUNK].toarray().T)
        for i in range(query.shape[0]):
            at = slice(query.indptr[i], query.indptr[i + 1])
            rows = columns[query.indices[at]]
            shared[i, start : start + CHUNK] = np.minimum(rows, query.data[at, None]).sum(0)
    return shared
