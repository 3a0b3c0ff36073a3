"""Evaluation protocols of visible-infrared re-identification, and what an evaluation returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Exclude = Literal["none", "cam3_cam2", "same_id_same_cam", "same_cam"]
Cmc = Literal["identity", "image"]
Ties = Literal["stable", "optimistic", "pessimistic"]


@dataclass(frozen=True)
class Protocol:
    """Which gallery images a query ignores, and what a rank counts.

    Attributes:
        name: as printed in records.
        exclude: ``none``; ``cam3_cam2`` (a query of camera 3 ignores every image of camera 2); ``same_id_same_cam``;
            ``same_cam``.
        cmc: ``identity`` counts different identities before the first match, ``image`` counts images.

    Raises:
        ValueError: unknown ``exclude`` or ``cmc``.
    """

    name: str
    exclude: Exclude
    cmc: Cmc

    def __post_init__(self) -> None:
        if self.exclude not in get_args(Exclude):
            raise ValueError(f"unknown exclude {self.exclude!r}: choose one of {', '.join(get_args(Exclude))}")
        if self.cmc not in get_args(Cmc):
            raise ValueError(f"unknown cmc {self.cmc!r}: choose 'identity' or 'image'")

    def excluded(self, query_ids: Tensor, query_cams: Tensor, gallery_ids: Tensor, gallery_cams: Tensor) -> Tensor:
        """Mask ``(Q, G)`` of ignored pairs; the readable rule, used for pictures and the reference."""
        same_cam = query_cams[:, None] == gallery_cams[None]
        if self.exclude == "same_cam":
            return same_cam
        if self.exclude == "same_id_same_cam":
            return same_cam & (query_ids[:, None] == gallery_ids[None])
        if self.exclude == "cam3_cam2":
            return (query_cams == 3)[:, None] & (gallery_cams == 2)[None]
        return torch.zeros_like(same_cam)


SYSU = Protocol("sysu", "cam3_cam2", "identity")
REGDB = Protocol("regdb", "none", "image")
LLCM = Protocol("llcm", "same_id_same_cam", "identity")
LLCM_STRICT = Protocol("llcm_strict", "same_cam", "identity")


class Ranking(NamedTuple):
    """Result of one evaluation; averages run over queries that have a match left.

    Attributes:
        cmc: ``(topk,)`` float64, ``cmc[k]`` = share of valid queries with rank <= k.
        mAP: mean average precision, a fraction.
        mINP: mean inverse negative penalty, a fraction.
        rank: ``(Q,)`` int64, 0-based rank of the first match, -1 without a match.
        ap: ``(Q,)`` float64, NaN without a match.
        inp: ``(Q,)`` float64, NaN without a match.
    """

    cmc: Tensor
    mAP: float
    mINP: float
    rank: Tensor
    ap: Tensor
    inp: Tensor


def summarise(rank: Tensor, ap: Tensor, inp: Tensor, topk: int) -> Ranking:
    """Averages over valid queries.

    Raises:
        ValueError: if no query has a match.
    """
    valid = rank >= 0
    count = int(valid.sum())
    if count == 0:
        raise ValueError(
            f"none of the {len(rank)} queries has a match in the gallery: check that both sides hold the same "
            "identities and that the cameras leave a match after the protocol's exclusion"
        )
    hits = torch.bincount(rank[valid].clamp_max(topk), minlength=topk + 1)[:topk]
    return Ranking(
        hits.cumsum(0).to(torch.float64) / count, float(ap[valid].mean()), float(inp[valid].mean()), rank, ap, inp
    )
