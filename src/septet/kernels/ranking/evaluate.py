"""The fast exact evaluator: values-only sorts and searches, no matrix of all pairs.

Queries that ignore the same gallery images form a group. Within a group the gallery is sorted by identity, so that the
images of an identity are one slice. For a chunk of queries the rank is the number of identities whose nearest image is
nearer than the nearest match, and the positions of the matches come from a search in the sorted values. That is exact
unless a match has the same distance as another image; those rows go through :func:`reference.rank_row`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from septet.kernels.ranking.protocols import Protocol, Ranking, Ties, summarise
from septet.kernels.ranking.reference import rank_row


@dataclass(frozen=True)
class _Sides:
    """Identities and cameras of both sides, on the CPU."""

    query_ids: Tensor
    query_cams: Tensor
    gallery_ids: Tensor
    gallery_cams: Tensor


@dataclass(frozen=True)
class _Slices:
    """A gallery sorted by identity.

    Attributes:
        columns: ``(G,)`` gallery indices, ascending identity, gallery order within one.
        ids: ``(G,)`` identities in that order.
        cams: ``(G,)`` cameras in that order.
        starts: ``(I,)`` first column of each identity.
        order: ``(G,)`` place of the columns in gallery order, for ties.
    """

    columns: Tensor
    ids: Tensor
    cams: Tensor
    starts: Tensor
    order: Tensor


class _Result:
    """Per-query results, filled chunk by chunk."""

    def __init__(self, queries: int) -> None:
        self.rank = torch.full((queries,), -1, dtype=torch.int64)
        self.ap = torch.full((queries,), float("nan"), dtype=torch.float64)
        self.inp = torch.full((queries,), float("nan"), dtype=torch.float64)


def rank_distances(
    distance: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cams: Any = None,
    gallery_cams: Any = None,
    *,
    protocol: Protocol,
    topk: int = 20,
    ties: Ties = "stable",
) -> Ranking:
    """Evaluate a distance matrix (smaller is nearer).

    Args:
        distance: ``(Q, G)`` floating point.
        query_ids: ``(Q,)`` integer identities.
        gallery_ids: ``(G,)``.
        query_cams: ``(Q,)`` cameras; needed where the protocol excludes by camera.
        gallery_cams: ``(G,)``.
        protocol: exclusion and kind of rank.
        topk: length of the CMC curve.
        ties: order of equal distances.

    Returns:
        :class:`Ranking`.

    Raises:
        ValueError: wrong shapes, NaN, no query with a match, missing cameras.
    """
    table = torch.as_tensor(distance)
    sides = _sides(query_ids, gallery_ids, query_cams, gallery_cams, protocol, ties, topk)
    wanted = len(sides.query_ids), len(sides.gallery_ids)
    if tuple(table.shape) != wanted:
        raise ValueError(f"distance has shape {tuple(table.shape)}, the identities ask for {wanted}")
    _no_nan(table, "distance")
    if bool(torch.isinf(table).any()):
        table = table.nan_to_num(posinf=torch.finfo(table.dtype).max, neginf=torch.finfo(table.dtype).min)
    return _evaluate(lambda rows: table[rows], [None], sides, protocol, topk, ties, 256)[0]


def rank_features(
    query: Any,
    gallery: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cams: Any = None,
    gallery_cams: Any = None,
    *,
    protocol: Protocol,
    topk: int = 20,
    ties: Ties = "stable",
    chunk: int = 256,
) -> Ranking:
    """Evaluate features: distance = minus the dot product, features as given; memory ``chunk * G``.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.
        query_ids: ``(Q,)``; the other arguments as in :func:`rank_distances`.
        gallery_ids: ``(G,)``.
        query_cams: ``(Q,)``.
        gallery_cams: ``(G,)``.
        protocol: exclusion and kind of rank.
        topk: length of the CMC curve.
        ties: order of equal distances.
        chunk: queries at a time.

    Raises:
        ValueError: as :func:`rank_distances`.
    """
    options: dict[str, Any] = {"protocol": protocol, "topk": topk, "ties": ties, "chunk": chunk}
    return rank_trials(query, gallery, query_ids, gallery_ids, query_cams, gallery_cams, [None], **options)[0]


def rank_trials(
    query: Any,
    gallery: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cams: Any,
    gallery_cams: Any,
    galleries: Sequence[Any],
    *,
    protocol: Protocol,
    topk: int = 20,
    ties: Ties = "stable",
    chunk: int = 256,
) -> list[Ranking]:
    """Evaluate several galleries, each a list of gallery indices (None = all), sharing one matrix product.

    Equal to :func:`rank_features` on ``gallery[indices]`` for each of them.
    """
    q, g = torch.as_tensor(query), torch.as_tensor(gallery)
    sides = _sides(query_ids, gallery_ids, query_cams, gallery_cams, protocol, ties, topk)
    if q.ndim != 2 or g.ndim != 2 or q.shape[1] != g.shape[1]:
        raise ValueError(f"features have shapes {tuple(q.shape)} and {tuple(g.shape)}; (Q, D) and (G, D) are wanted")
    if len(q) != len(sides.query_ids) or len(g) != len(sides.gallery_ids):
        raise ValueError(f"{len(q)} + {len(g)} features, {len(sides.query_ids)} + {len(sides.gallery_ids)} identities")
    _no_nan(q, "query features")
    _no_nan(g, "gallery features")
    return _evaluate(lambda rows: (q[rows] @ g.T).neg_(), galleries, sides, protocol, topk, ties, chunk)


def _sides(
    query_ids: Any, gallery_ids: Any, query_cams: Any, gallery_cams: Any, protocol: Protocol, ties: Ties, topk: int
) -> _Sides:
    """Checked identities and cameras."""
    if ties not in get_args(Ties):
        raise ValueError(f"unknown ties {ties!r}: choose one of {', '.join(get_args(Ties))}")
    if topk < 1:
        raise ValueError(f"topk={topk} is below 1")
    ids = [torch.as_tensor(a).reshape(-1).to("cpu", torch.int64) for a in (query_ids, gallery_ids)]
    cams = []
    for given, own, name in ((query_cams, ids[0], "query_cams"), (gallery_cams, ids[1], "gallery_cams")):
        if given is None and protocol.exclude != "none":
            raise ValueError(f"protocol {protocol.name!r} excludes by camera: give {name}")
        cam = torch.zeros_like(own) if given is None else torch.as_tensor(given).reshape(-1).to("cpu", torch.int64)
        if len(cam) != len(own):
            raise ValueError(f"{name} has {len(cam)} entries for {len(own)} identities")
        cams.append(cam)
    return _Sides(ids[0], cams[0], ids[1], cams[1])


def _no_nan(values: Tensor, name: str) -> None:
    if bool(torch.isnan(values).any()):
        bad = torch.isnan(values).any(1).nonzero().flatten()[:10].tolist()
        raise ValueError(f"{name} holds NaN in rows {bad}: the network diverged or an image was bad")


def _groups(sides: _Sides, protocol: Protocol) -> list[tuple[Tensor, Tensor]]:
    """Query rows and the mask of the gallery images they keep, one pair per kind of query."""
    cams = sides.query_cams
    if protocol.exclude == "cam3_cam2":
        everything = torch.ones_like(sides.gallery_cams, dtype=torch.bool)
        pairs = [((cams != 3).nonzero().flatten(), everything)]
        pairs.append(((cams == 3).nonzero().flatten(), sides.gallery_cams != 2))
        return pairs
    if protocol.exclude == "same_cam":
        return [((cams == c).nonzero().flatten(), sides.gallery_cams != c) for c in cams.unique()]
    return [(torch.arange(len(cams)), torch.ones_like(sides.gallery_cams, dtype=torch.bool))]


def _slices(sides: _Sides, kept: Tensor, indices: Any) -> _Slices:
    """The kept part of a gallery, sorted by identity."""
    if indices is None:
        columns = kept.nonzero().flatten()
    else:
        columns = torch.as_tensor(indices, dtype=torch.int64)
        columns = columns[kept[columns]]
    order = torch.sort(sides.gallery_ids[columns], stable=True).indices
    columns = columns[order]
    ids = sides.gallery_ids[columns]
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    return _Slices(columns, ids, sides.gallery_cams[columns], first.nonzero().flatten(), torch.argsort(order))


def _evaluate(
    product: Callable[[Tensor], Tensor],
    galleries: Sequence[Any],
    sides: _Sides,
    protocol: Protocol,
    topk: int,
    ties: Ties,
    chunk: int,
) -> list[Ranking]:
    """Every gallery, sharing the distances of a chunk of queries."""
    results = [_Result(len(sides.query_ids)) for _ in galleries]
    for rows, kept in _groups(sides, protocol):
        if not len(rows):
            continue
        slices = [_slices(sides, kept, g) for g in galleries]
        for part in rows.split(chunk):
            table = product(part)
            for piece, result in zip(slices, results, strict=True):
                if len(piece.columns):
                    whole = len(piece.columns) == table.shape[1] and bool((piece.columns.diff() == 1).all())
                    distance = table.clone() if whole else table[:, piece.columns.to(table.device)]
                    _chunk(distance, part, piece, sides, protocol, ties, result)
    return [summarise(r.rank, r.ap, r.inp, topk) for r in results]


def _chunk(
    distance: Tensor, rows: Tensor, piece: _Slices, sides: _Sides, protocol: Protocol, ties: Ties, result: _Result
) -> None:
    """Rank, AP and INP of a chunk: ``distance`` is ``(B, G)`` with columns sorted by identity."""
    ids = sides.query_ids[rows]
    begin = torch.searchsorted(piece.ids, ids)
    counts = torch.searchsorted(piece.ids, ids, right=True) - begin
    width = int(counts.max())
    if width == 0:
        return
    slot = torch.arange(width)
    real = slot[None] < counts[:, None]
    at = (begin[:, None] + slot).clamp_max(len(piece.ids) - 1)
    infinity = float("inf")
    match = real
    if protocol.exclude == "same_id_same_cam":
        dropped = real & (piece.cams[at] == sides.query_cams[rows][:, None])
        match = real & ~dropped
        line, place = dropped.nonzero(as_tuple=True)
        distance[line, at[line, place]] = infinity
    values = distance.gather(1, at.to(distance.device)).masked_fill(~match.to(distance.device), infinity)
    ordered = _sorted(distance)
    left = torch.searchsorted(ordered, values)
    following = ordered.gather(1, (left + 1).clamp_max(ordered.shape[1] - 1))
    tied = ((following == values) & (left + 1 < ordered.shape[1])).cpu() & match
    position = (left.cpu() + 1).masked_fill(~match, np.iinfo(np.int64).max // 2).sort(1).values
    total = match.sum(1)
    valid = total > 0
    ordinal = (slot + 1).to(torch.float64)
    precision = (ordinal / position).masked_fill(slot[None] >= total[:, None], 0.0)
    last = position.gather(1, (total - 1).clamp_min(0)[:, None]).squeeze(1)
    if protocol.cmc == "identity":
        best = values.amin(1, keepdim=True)
        rank = (_segment_min(distance, piece.starts) < best).sum(1).cpu()
    else:
        rank = position[:, 0] - 1
    good = rows[valid]
    result.rank[good] = rank[valid]
    result.ap[good] = (precision.sum(1) / total)[valid]
    result.inp[good] = (total / last.to(torch.float64))[valid]
    for i in (tied.any(1) & valid).nonzero().flatten().tolist():
        _tied_row(distance[i], int(ids[i]), int(rows[i]), piece, protocol, ties, result)


def _tied_row(
    distance: Tensor, query_id: int, row: int, piece: _Slices, protocol: Protocol, ties: Ties, result: _Result
) -> None:
    """The full ordering of one query whose match ties with another image."""
    in_order = distance.cpu()[piece.order].numpy()
    ids = piece.ids[piece.order].numpy()
    kept = ~np.isinf(in_order)
    outcome = rank_row(in_order[kept], ids[kept] == query_id, ids[kept], ties, protocol.cmc == "identity")
    result.rank[row], result.ap[row], result.inp[row] = outcome


def _sorted(values: Tensor) -> Tensor:
    """Rows in ascending order; numpy's sort is three times faster than torch's on a CPU."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def _segment_min(values: Tensor, starts: Tensor) -> Tensor:
    """Minimum ``(B, I)`` over consecutive columns that begin at ``starts``."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.minimum.reduceat(values.numpy(), starts.numpy(), axis=1))
    segment = torch.zeros(values.shape[1], dtype=torch.int64)
    segment[starts[1:]] = 1
    index = segment.cumsum(0).to(values.device).expand_as(values)
    out = values.new_full((len(values), len(starts)), float("inf"))
    return out.scatter_reduce_(1, index, values, "amin")
