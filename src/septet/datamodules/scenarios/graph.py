"""The heterogeneous graph of scenarios, data sets, models and components, and the guard against leaked results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from septet.datamodules.scenarios.bench import Bench, components_of
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.targets import column_targets

EVALUATED = ("dataset", "evaluated", "model")


class LeakageError(ValueError):
    """A result that belongs to the test part is reachable from training."""


def hetero() -> Any:
    """An empty ``HeteroData`` (torch_geometric is optional)."""
    try:
        from torch_geometric.data import HeteroData
    except ImportError as error:
        raise ImportError("smap needs the graph extra: pip install 'septet[graph]'") from error
    return HeteroData()


def _edges(pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


def build_graph(
    bench: Bench, split: Split, records: Sequence[Mapping[str, Any]] | None = None, *, neighbours: int = 5
) -> Any:
    """Results of train columns only, as a ``HeteroData``.

    Args:
        bench: the table.
        split: which columns may be seen; ``split.cold`` rows lend no result.
        records: scenario records whose model components replace the shipped tags.
        neighbours: of the (dataset, similar, dataset) edges.

    Returns:
        Nodes scenario, dataset (= column), model, component; edges uses, evaluated (edge_attr ``[z, r]``), supports,
        has, similar, each with its reverse ``rev_...``.
    """
    graph = hetero()
    names = list(dict.fromkeys(bench.scenario))
    z, r, mask = column_targets(np.where(_visible(bench, split), bench.values, np.nan), bench.kind)
    x = standardised(bench, split.train)
    graph["scenario"].x = torch.eye(len(names))
    graph["dataset"].x = torch.tensor(x, dtype=torch.float32)
    graph["model"].x = torch.tensor(model_inputs(bench), dtype=torch.float32)
    tags = components_of(bench.models, records)
    vocabulary = sorted({c for m in bench.models for c in tags[m]}) or ["unknown"]
    graph["component"].x = torch.eye(len(vocabulary))
    uses = [(names.index(s), j) for j, s in enumerate(bench.scenario)]
    columns, rows = np.nonzero(mask.T)
    supports = sorted({(names.index(bench.scenario[j]), int(i)) for j, i in zip(columns, rows, strict=True)})
    has = [(i, vocabulary.index(c)) for i, m in enumerate(bench.models) for c in tags[m]]
    pairs = {
        ("scenario", "uses", "dataset"): uses,
        EVALUATED: [(int(j), int(i)) for j, i in zip(columns, rows, strict=True)],
        ("scenario", "supports", "model"): supports,
        ("model", "has", "component"): has,
        ("dataset", "similar", "dataset"): _similar(x, neighbours),
    }
    for (a, name, b), listed in pairs.items():
        index = _edges(listed)
        graph[a, name, b].edge_index = index
        graph[b, f"rev_{name}", a].edge_index = index.flip(0)
    attr = torch.tensor(np.column_stack([z[rows, columns], r[rows, columns]]), dtype=torch.float32).reshape(-1, 2)
    graph[EVALUATED].edge_attr = attr
    graph["model", "rev_evaluated", "dataset"].edge_attr = attr
    return graph


def _visible(bench: Bench, split: Split) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """``(M, C)`` cells that training may read."""
    seen = np.zeros(bench.values.shape, dtype=bool)
    seen[:, split.train] = True
    seen[split.cold] = False
    return seen


def standardised(bench: Bench, train: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Column features ``(C, max(F, 1))`` by mean and std of the train columns; unknown (NaN) becomes 0."""
    x = bench.column_features
    if x.shape[1] == 0:
        return np.zeros((len(x), 1))
    with np.errstate(all="ignore"):
        mean, std = np.nanmean(x[list(train)], 0), np.nanstd(x[list(train)], 0)
    return np.asarray(np.nan_to_num((x - np.nan_to_num(mean)) / np.where(std > 1e-9, std, 1.0)))


def model_inputs(bench: Bench) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Standardised model features ``(M, max(G, 1))``; unknown becomes 0."""
    x = bench.model_features
    if x is None or x.shape[1] == 0:
        return np.zeros((len(bench.models), 1))
    mean, std = np.nanmean(x, 0), np.nanstd(x, 0)
    return np.asarray(np.nan_to_num((x - mean) / np.where(std > 1e-9, std, 1.0)))


def _similar(x: np.ndarray[Any, np.dtype[np.float64]], k: int) -> list[tuple[int, int]]:
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1, kind="stable")[:, : min(k, len(x) - 1)]
    return [(j, int(i)) for j in range(len(x)) for i in near[j]]


def assert_no_leak(graph: Any, bench: Bench, split: Split) -> None:
    """Check that no result edge of the graph touches a test cell.

    Raises:
        LeakageError: naming the first leaked data set and model.
    """
    seen = _visible(bench, split)
    names = list(dict.fromkeys(bench.scenario))
    for key, flip in ((EVALUATED, False), (("model", "rev_evaluated", "dataset"), True)):
        index = graph[key].edge_index.flip(0) if flip else graph[key].edge_index
        for j, i in index.T.tolist():
            if not seen[i, j]:
                raise LeakageError(f"edge ({bench.columns[j]!r}, evaluated, {bench.models[i]!r}) is a test result")
    finite = np.isfinite(bench.values) & seen
    for s, i in graph["scenario", "supports", "model"].edge_index.T.tolist():
        if not any(finite[i, j] for j in range(len(bench.columns)) if bench.scenario[j] == names[s]):
            raise LeakageError(f"edge ({names[s]!r}, supports, {bench.models[i]!r}) rests on test results only")
