"""CMC, mAP and mINP as a torchmetrics metric, every image counted once however many processes there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from septet.kernels.ranking import Protocol, Ranking, rank_trials

RANKS = (1, 5, 10, 20)


class Side(NamedTuple):
    """Features ``(N, D)``, identities, cameras and places ``(N,)`` of one side, by ascending place."""

    features: Tensor
    ids: Tensor
    cams: Tensor
    place: Tensor


class ReIDMetric(Metric):
    """Collects features of queries and gallery and ranks them at the end.

    Args:
        protocol: exclusion and kind of rank.
        topk: length of the CMC curve.
        galleries: trials as lists of gallery indices; None = one trial with every image.
        chunk: queries at a time.
        kwargs: of torchmetrics.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    features: list[Tensor]
    labels: list[Tensor]

    def __init__(
        self,
        protocol: Protocol,
        *,
        topk: int = 20,
        galleries: Sequence[Sequence[int]] | None = None,
        chunk: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.protocol, self.topk, self.chunk = protocol, topk, chunk
        self.galleries = None if galleries is None else [list(g) for g in galleries]
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, ids: Tensor, cams: Tensor, index: Tensor, *, is_query: bool) -> None:
        """Add images of one side; an index seen twice on its side counts once.

        Args:
            features: ``(B, D)``.
            ids: ``(B,)`` identities.
            cams: ``(B,)`` cameras.
            index: ``(B,)`` place of the image on its side.
            is_query: side.
        """
        side = torch.full_like(torch.as_tensor(index), int(is_query))
        columns = [torch.as_tensor(c).to(features.device, torch.int64) for c in (ids, cams, index, side)]
        if any(len(c) != len(features) for c in columns):
            raise ValueError(f"{len(features)} features with {[len(c) for c in columns[:3]]} ids, cams, indices")
        self.features.append(features.detach().float())
        self.labels.append(torch.stack(columns, 1))

    def sides(self) -> tuple[Side, Side]:
        """Query and gallery, once per index.

        Raises:
            ValueError: NaN in features, with the indices; a side without images.
        """
        if not len(self.features):
            raise ValueError("no features were given: the evaluation had no images")
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        return self._side(features, labels, 1), self._side(features, labels, 0)

    def _side(self, features: Tensor, labels: Tensor, number: int) -> Side:
        name = "query" if number else "gallery"
        rows = (labels[:, 3] == number).nonzero().flatten()
        if not len(rows):
            raise ValueError(f"the {name} side has no images")
        rows = rows[torch.sort(labels[rows, 2], stable=True).indices]
        first = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        first[1:] = labels[rows, 2].diff() != 0
        rows = rows[first]
        chosen = features[rows]
        bad = torch.isnan(chosen).any(1)
        if bool(bad.any()):
            indices = labels[rows[bad], 2][:10].tolist()
            raise ValueError(f"{name} features of images {indices} are NaN: the network diverged or an image is bad")
        return Side(chosen, *(labels[rows, c] for c in range(3)))

    def rankings(self, galleries: Sequence[Sequence[int]] | None) -> list[Ranking]:
        """One :class:`Ranking` per trial, from one matrix product."""
        query, gallery = self.sides()
        trials: list[Any] = [None]
        if galleries is not None:
            place = torch.full((int(gallery.place[-1]) + 1,), -1, dtype=torch.int64)
            place[gallery.place.cpu()] = torch.arange(len(gallery.place))
            trials = [place[torch.as_tensor(g)] for g in galleries]
            if any(bool((t < 0).any()) for t in trials):
                raise ValueError("a trial names gallery images whose features were not given")
        return rank_trials(
            query.features, gallery.features, query.ids, gallery.ids, query.cams, gallery.cams, trials,
            protocol=self.protocol, topk=self.topk, chunk=self.chunk,
        )  # fmt: skip

    def compute(self) -> dict[str, Tensor]:
        """rank1, rank5, rank10, rank20, mAP, mINP as fractions; with galleries their means and ``<key>_std``."""
        return summary(self.rankings(self.galleries), spread=self.galleries is not None)


def summary(rankings: Sequence[Ranking], *, spread: bool) -> dict[str, Tensor]:
    """Means over trials, and population deviations if ``spread``."""
    rows = [
        {f"rank{k}": float(r.cmc[k - 1]) for k in RANKS if k <= len(r.cmc)} | {"mAP": r.mAP, "mINP": r.mINP}
        for r in rankings
    ]
    table = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}
    out = {key: values.mean() for key, values in table.items()}
    if spread:
        out |= {f"{key}_std": values.std(correction=0) for key, values in table.items()}
    return out
