"""Pictures of a tested model: sheets, worst queries, cameras, distances, a map of the features, curves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from septet.kernels.ranking import Protocol, Ranking, rank_features
from septet.lightning_modules.mscmnet.metrics import Side
from septet.lightning_modules.mscmnet.sheets import Hit, gallery_sheet

BLUE, ORANGE, GREY = "#1b6ca8", "#e07a1f", "#8a8f98"
SHEETS = 4


class FirstTrial(NamedTuple):
    """The reported setting's first trial: ranking, queries, its gallery and the gallery's samples."""

    result: Ranking
    query: Side
    part: Side
    samples: list[Any]
    protocol: Protocol

    @property
    def worst_first(self) -> list[int]:
        """Valid queries by ascending AP."""
        order = torch.sort(self.result.ap.nan_to_num(nan=2.0), stable=True).indices
        return [int(i) for i in order[: int((self.result.rank >= 0).sum())]]


def first_trial(query: Side, gallery: Side, evaluation: Any, protocol: Protocol) -> FirstTrial:
    """Rank the reported setting's first trial."""
    at = torch.as_tensor(evaluation.galleries[evaluation.primary][0])
    query, part = Side(*(column.cpu() for column in query)), Side(*(column.cpu()[at] for column in gallery))
    sides = query.features, part.features, query.ids, part.ids, query.cams, part.cams
    samples = [evaluation.pool[int(i)] for i in at]
    return FirstTrial(rank_features(*sides, protocol=protocol), query, part, samples, protocol)


def draw(first: FirstTrial, evaluation: Any, root: Path, history: list[dict[str, float]]) -> Iterator[tuple[str, Any]]:
    """Names and pictures (figures or arrays) of the reported setting's first trial."""
    result, query, part, samples, protocol = first
    order = torch.tensor(first.worst_first)
    spread = order[torch.linspace(0, len(order) - 1, min(SHEETS, len(order))).long()]
    for name, rows in (("ranked_sheet", spread), ("worst_queries", order[:SHEETS])):
        sheets = [sheet(int(i), query, part, samples, evaluation, protocol, root) for i in rows]
        yield name, np.concatenate([np.asarray(s) for s in sheets])
    yield "per_camera", per_camera(result, query)
    yield "distances", distances(query, part, protocol)
    yield "feature_map", feature_map(query, part)
    if history:
        yield "validation_curve", curve(history)


def sheet(
    row: int,
    query: Side,
    part: Side,
    samples: list[Any],
    evaluation: Any,
    protocol: Protocol,
    root: Path,
    top: int = 10,
) -> Any:
    """The gallery sheet of one query."""
    score = part.features @ query.features[row]
    excluded = protocol.excluded(query.ids[row, None], query.cams[row, None], part.ids, part.cams)[0]
    ranked = []
    for n in torch.sort(score, descending=True, stable=True).indices[:top].tolist():
        sample = samples[n]
        match = bool(part.ids[n] == query.ids[row])
        path = str(root / sample.path)
        ranked.append(Hit(path, sample.pid, sample.cam, float(score[n]), match, bool(excluded[n])))
    own = evaluation.query[int(query.place[row])]
    return gallery_sheet(Hit(str(root / own.path), own.pid, own.cam, 1.0, True, False), ranked, top=top)


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """A figure with one labelled axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.add_subplot()
    axis.set(title=title, xlabel=x, ylabel=y)
    return figure, axis


def camera_rows(result: Ranking, query: Side) -> list[tuple[int, int, float, float]]:
    """Camera, queries, rank-1 and mAP per query camera."""
    rows = []
    for camera in query.cams.unique().tolist():
        at = (query.cams == camera) & (result.rank >= 0)
        if bool(at.any()):
            rank1 = float((result.rank[at] == 0).double().mean())
            rows.append((int(camera), int(at.sum()), rank1, float(result.ap[at].mean())))
    return rows


def per_camera(result: Ranking, query: Side) -> Any:
    """Rank-1 and mAP by camera of the query."""
    rows = camera_rows(result, query)
    figure, axis = _figure("Rank-1 and mAP by query camera, first trial", "query camera", "%")
    at = np.arange(len(rows))
    axis.bar(at - 0.2, [100 * r[2] for r in rows], 0.4, color=BLUE, label="rank-1")
    axis.bar(at + 0.2, [100 * r[3] for r in rows], 0.4, color=ORANGE, label="mAP")
    axis.set_xticks(at, [f"{r[0]} (n={r[1]})" for r in rows])
    axis.legend()
    return figure


def distances(query: Side, part: Side, protocol: Protocol) -> Any:
    """Histogram of cosine distances of matching and other pairs."""
    distance = 1 - query.features @ part.features.T
    kept = ~protocol.excluded(query.ids, query.cams, part.ids, part.cams)
    match = query.ids[:, None] == part.ids[None]
    figure, axis = _figure("Cross-modal distances, first trial", "cosine distance", "density")
    for mask, colour, label in ((match & kept, BLUE, "same person"), (~match & kept, ORANGE, "others")):
        if bool(mask.any()):
            axis.hist(distance[mask].numpy(), bins=40, density=True, alpha=0.6, color=colour, label=label)
    axis.legend()
    return figure


def feature_map(query: Side, part: Side, most: int = 12) -> Any:
    """First two principal components of some identities: circles visible, crosses infrared (query)."""
    ids = query.ids.unique()[:most]
    figure, axis = _figure(f"Features of {len(ids)} identities (circle gallery, cross query)", "PC 1", "PC 2")
    chosen = [(s.features[torch.isin(s.ids, ids)], s.ids[torch.isin(s.ids, ids)]) for s in (part, query)]
    both = torch.cat([f for f, _ in chosen])
    center = both.mean(0)
    _, _, axes = torch.linalg.svd(both - center, full_matrices=False)
    for (features, labels), marker in zip(chosen, "ox", strict=True):
        xy: Tensor = (features - center) @ axes[:2].T
        colours = torch.searchsorted(ids, labels).numpy()
        axis.scatter(xy[:, 0], xy[:, 1], c=colours, cmap="tab20", marker=marker, s=22, vmin=0, vmax=20)
    return figure


def curve(history: list[dict[str, float]]) -> Any:
    """Validation rank-1 and mAP by epoch."""
    figure, axis = _figure("Validation (means over trials)", "epoch", "%")
    epochs = [row["epoch"] for row in history]
    for key, colour in (("val/rank1", BLUE), ("val/mAP", ORANGE)):
        axis.plot(epochs, [100 * row[key] for row in history], "o-", color=colour, label=key)
    axis.legend()
    return figure
