"""Node and edge features of a stream as look-up tables; absent ones cost nothing."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureTables:
    """Tables with row 0 for "none"; not part of a checkpoint.

    Args:
        node: ``(N+1, Fn)`` or None.
        edge: ``(E+1, Fe)`` or None.
    """

    def __init__(self, node: Tensor | None = None, edge: Tensor | None = None) -> None:
        self.node, self.edge = node, edge

    def to(self, device: torch.device) -> None:
        """Move both tables."""
        self.node = None if self.node is None else self.node.to(device)
        self.edge = None if self.edge is None else self.edge.to(device)

    def lookup(
        self, ids: Tensor, edge_ids: Tensor, node_dim: int, edge_dim: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Features ``(..., node_dim)`` and ``(..., edge_dim)``, zero-padded; None where there is no table."""
        return _rows(self.node, ids, node_dim, "node"), _rows(self.edge, edge_ids, edge_dim, "edge")


def _rows(table: Tensor | None, ids: Tensor, width: int, name: str) -> Tensor | None:
    """Rows of a table, padded with zeros to ``width``."""
    if table is None:
        return None
    if table.shape[1] > width:
        raise ValueError(
            f"{name} features have {table.shape[1]} columns, the network reads {width}: raise net.{name}_dim"
        )
    rows = table[ids]
    return rows if rows.shape[-1] == width else torch.nn.functional.pad(rows, (0, width - rows.shape[-1]))
