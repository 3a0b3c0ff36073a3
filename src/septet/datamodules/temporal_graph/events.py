"""A stream of interactions between nodes: the one plain type that all readers, splits and loaders share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.numbering import Numbering
from septet.kernels.hashing.neighbors import check_ids, check_lengths, check_sorted

SPARSE_FACTOR = 16
"""Warn about sparse ids when the largest exceeds this many times the number of distinct ones."""


@dataclass
class EventStream:
    """Events in stream order; node ids start at 1, 0 means "no node"; edge id = position + 1.

    Attributes:
        src: sources ``(E,)`` int64.
        dst: destinations ``(E,)`` int64.
        time: non-decreasing times ``(E,)`` int64 or float64.
        num_nodes: largest id allowed; default the largest id present.
        edge_feat: ``(E+1, Fe)`` float32 with row 0 zero, or None for none.
        node_feat: ``(N+1, Fn)`` float32 with row 0 zero, or None for none.
        label: ``(E,)`` or None.
        name: name of the data set in records and reports.
        numbering: from the ids of the file to these.

    Raises:
        ValueError: unequal lengths, unsorted or NaN times, NaN features, ids outside ``1..num_nodes``, no events.
    """

    src: Tensor
    dst: Tensor
    time: Tensor
    num_nodes: int | None = None
    edge_feat: Tensor | None = None
    node_feat: Tensor | None = None
    label: Tensor | None = None
    name: str = ""
    numbering: Numbering = Numbering()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        self.src, self.dst = _integers("src", self.src), _integers("dst", self.dst)
        self.time = torch.as_tensor(self.time)
        self.time = self.time.to(torch.float64 if self.time.is_floating_point() else torch.int64)
        check_lengths(src=self.src, dst=self.dst, time=self.time)
        if len(self.src) == 0:
            raise ValueError("the stream holds no events: check the path and the format")
        check_sorted(self.time)
        largest = max(int(self.src.max()), int(self.dst.max()))
        self.num_nodes = largest if self.num_nodes is None else int(self.num_nodes)
        check_ids("src", self.src, self.num_nodes)
        check_ids("dst", self.dst, self.num_nodes)
        self.edge_feat = _features("edge_feat", self.edge_feat, len(self.src) + 1)
        self.node_feat = _features("node_feat", self.node_feat, self.num_nodes + 1)
        if self.label is not None:
            self.label = torch.as_tensor(self.label)
            check_lengths(src=self.src, label=self.label)

    def __len__(self) -> int:
        return len(self.src)

    @property
    def nodes(self) -> int:
        """The largest id allowed."""
        assert self.num_nodes is not None
        return self.num_nodes

    def warn_if_sparse(self) -> None:
        """Warn when the table would be mostly empty rows."""
        distinct = len(distinct_ids(self.src, self.nodes, self.dst))
        if self.nodes > SPARSE_FACTOR * distinct + 10_000:
            warnings.warn(
                f"ids reach {self.nodes:,} but only {distinct:,} nodes occur: read with compact=True to save memory",
                UserWarning,
                stacklevel=2,
            )

    def compacted(self) -> EventStream:
        """The same stream with ids renumbered 1..n in increasing order of the old ids."""
        old, new = torch.unique(torch.cat([self.src, self.dst]), return_inverse=True)
        src, dst = (new + 1).chunk(2)
        feat = None if self.node_feat is None else torch.cat([self.node_feat[:1], self.node_feat[old]])
        kept = old if self.numbering.kept is None else self.numbering.kept[old - 1]
        numbering = replace(self.numbering, kept=kept)
        return EventStream(src, dst, self.time, len(old), self.edge_feat, feat, self.label, self.name, numbering)

    def to_temporal_data(self) -> Any:
        """This stream as ``torch_geometric.data.TemporalData`` (ids kept, features of events as ``msg``).

        Raises:
            ImportError: torch_geometric is absent.
        """
        extra = {} if self.edge_feat is None else {"msg": self.edge_feat[1:]}
        if self.label is not None:
            extra["y"] = self.label
        return _temporal_data()(src=self.src, dst=self.dst, t=self.time, **extra)

    @classmethod
    def from_temporal_data(cls, data: Any, name: str = "") -> EventStream:
        """A stream from ``torch_geometric.data.TemporalData``; ids that start at 0 are raised by 1."""
        base = 1 if min(int(data.src.min()), int(data.dst.min())) == 0 else 0
        msg = getattr(data, "msg", None)
        if msg is not None:
            msg = torch.cat([msg.new_zeros(1, msg.shape[1]), msg])
        src, dst, label = data.src + base, data.dst + base, getattr(data, "y", None)
        return cls(src, dst, data.t, edge_feat=msg, label=label, name=name, numbering=Numbering(base, base))


def distinct_ids(ids: Tensor, num_nodes: int, *others: Tensor) -> Tensor:
    """Distinct ids, increasing; by one flag per node, or by sorting where the ids are sparse."""
    if num_nodes > 32 * len(ids) + 1_000_000:
        both: Tensor = torch.unique(torch.cat([ids, *others]))  # type: ignore[no-untyped-call]
        return both
    seen = torch.zeros(num_nodes + 1, dtype=torch.bool)
    for column in (ids, *others):
        seen[column] = True
    return seen.nonzero().squeeze(1)


def _temporal_data() -> Any:
    """torch_geometric's TemporalData class."""
    try:
        from torch_geometric.data import TemporalData
    except ImportError as error:
        raise ImportError("TemporalData needs the graph extra: pip install 'septet[graph]'") from error
    return TemporalData


def _integers(name: str, values: Any) -> Tensor:
    """Ids as int64; fractions and NaN are refused."""
    ids = torch.as_tensor(np.asarray(values) if isinstance(values, np.ndarray) else values)
    if ids.is_floating_point():
        bad = (ids != ids.floor()) | ids.isnan()
        if bool(bad.any()):
            raise ValueError(f"{name} holds {ids[bad][0].item()}: node ids are integers")
    return ids.to(torch.int64)


def _features(name: str, values: Any, rows: int) -> Tensor | None:
    """Features as float32 after checks for rows, NaN and infinity."""
    if values is None:
        return None
    features = torch.as_tensor(values).to(torch.float32)
    if features.dim() != 2 or len(features) != rows:
        raise ValueError(f"{name} has shape {tuple(features.shape)}, expected ({rows}, F): row 0 stands for none")
    finite = torch.isfinite(features).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        what = "NaN" if bool(torch.isnan(features[row]).any()) else "infinity (as float32)"
        raise ValueError(f"{name} row {row} holds {what}: impute or drop it")
    return features
