"""Graph encoders over the train part of the heterogeneous graph: HGT, and HAN with fixed meta-paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PATHS = (("scenario", "dataset", "model"), ("dataset", "model", "dataset"), ("model", "component", "model"))
"""HAN's meta-paths; S-D-M gives scenario -> model links."""


def sizes_of(graph: Any) -> dict[str, int]:
    """Feature width per node type."""
    return {name: int(graph[name].x.shape[1]) for name in graph.node_types}


class GraphEncoder(nn.Module):
    """Embeddings of data sets and models; starts at zero, so that it changes nothing before it has learnt.

    Args:
        kind: ``hgt`` or ``han``.
        sizes: feature width per node type.
        hidden: width.
        heads: attention heads.
        layers: of HGT.
    """

    def __init__(self, kind: str, sizes: Mapping[str, int], hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import HANConv, HGTConv
        except ImportError as error:
            raise ImportError("smap needs the graph extra: pip install 'septet[graph]'") from error
        self.kind = kind
        self.enter = nn.ModuleDict({name: nn.Linear(width, hidden) for name, width in sizes.items()})
        nodes = list(sizes)
        if kind == "hgt":
            edges = [e for e in _edge_types() if e[0] in sizes and e[2] in sizes]
            self.layers = nn.ModuleList([HGTConv(hidden, hidden, (nodes, edges), heads) for _ in range(layers)])
        else:
            self.layers = nn.ModuleList([HANConv(hidden, hidden, (nodes, _han_edges()), heads, dropout=0.3)])
        self.leave = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("dataset", "model")})
        for layer in self.leave.values():
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, graph: Any, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(C, hidden)`` and ``(M, hidden)``; results of the queried columns are taken out first."""
        x = {name: torch.tanh(layer(graph[name].x)) for name, layer in self.enter.items()}
        edges = _without_results(graph, columns)
        if self.kind == "han":
            edges = _meta_paths(edges, {name: len(graph[name].x) for name in x})
        for layer in self.layers:
            out = layer(x, edges)
            x = {name: x[name] + out[name] if out.get(name) is not None else x[name] for name in x}
        return self.leave["dataset"](x["dataset"]), self.leave["model"](x["model"])


def _edge_types() -> list[tuple[str, str, str]]:
    forward = [
        ("scenario", "uses", "dataset"), ("dataset", "evaluated", "model"), ("scenario", "supports", "model"),
        ("model", "has", "component"), ("dataset", "similar", "dataset"),
    ]  # fmt: skip
    return [e for a, n, b in forward for e in ((a, n, b), (b, f"rev_{n}", a))]


def _han_edges() -> list[tuple[str, str, str]]:
    return [(path[0], "-".join(p[0] for p in path), path[-1]) for path in PATHS]


def _without_results(graph: Any, columns: Tensor) -> dict[tuple[str, str, str], Tensor]:
    """All edges but the results of some columns; "supports" goes too, for it is made of results."""
    edges = dict(graph.edge_index_dict)
    index = edges["dataset", "evaluated", "model"]
    index = index[:, ~torch.isin(index[0], columns)]
    edges["dataset", "evaluated", "model"] = index
    edges["model", "rev_evaluated", "dataset"] = index.flip(0)
    uses = edges["scenario", "uses", "dataset"]
    adjacency = _dense(index, len(graph["dataset"].x), len(graph["model"].x))
    place = _dense(uses, len(graph["scenario"].x), len(graph["dataset"].x))
    supports = torch.nonzero(place @ adjacency).T.contiguous()
    edges["scenario", "supports", "model"] = supports
    edges["model", "rev_supports", "scenario"] = supports.flip(0)
    return edges


def _dense(index: Tensor, rows: int, columns: int) -> Tensor:
    found = torch.zeros(rows, columns, device=index.device)
    found[index[0], index[1]] = 1
    return found


def _meta_paths(edges: Mapping[tuple[str, str, str], Tensor], counts: Mapping[str, int]) -> dict[Any, Tensor]:
    """Reachability along each meta-path as edges."""
    uses = _dense(edges["scenario", "uses", "dataset"], counts["scenario"], counts["dataset"])
    results = _dense(edges["dataset", "evaluated", "model"], counts["dataset"], counts["model"])
    has = _dense(edges["model", "has", "component"], counts["model"], counts["component"])
    reached = (uses @ results, results @ results.T, has @ has.T)
    return {key: torch.nonzero(r).T.contiguous() for key, r in zip(_han_edges(), reached, strict=True)}
