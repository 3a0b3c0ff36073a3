"""TGN: a learned memory per node (Rossi et al., 2020), as evaluated by DyGLib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from septet.lightning_modules.cne_n.baselines.layers import LinkHead, TimeEncoder, gaps, load_reference


class TemporalAttention(nn.Module):
    """Attention of a node over its latest neighbours, residual and LayerNorm.

    Args:
        query_dim: width of the query.
        key_dim: width of keys and values.
        heads: attention heads.
        dropout: of attention and output.
    """

    def __init__(self, query_dim: int, key_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if query_dim % heads:
            raise ValueError(f"query width {query_dim} is not divisible by {heads} heads")
        self.heads = heads
        self.query_projection = nn.Linear(query_dim, query_dim, bias=False)
        self.key_projection = nn.Linear(key_dim, query_dim, bias=False)
        self.value_projection = nn.Linear(key_dim, query_dim, bias=False)
        self.residual_fc = nn.Linear(query_dim, query_dim)
        self.layer_norm = nn.LayerNorm(query_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, filled: Tensor) -> Tensor:
        """``(B, Q)``, ``(B, K, D)``, ``(B, K)`` bool to ``(B, Q)``."""
        b, k = filled.shape
        q = self.query_projection(query).view(b, self.heads, 1, -1)
        keys = self.key_projection(key).view(b, k, self.heads, -1).transpose(1, 2)
        values = self.value_projection(key).view(b, k, self.heads, -1).transpose(1, 2)
        weight = (q * keys).sum(-1) * q.shape[-1] ** -0.5
        weight = weight.masked_fill(~filled.unsqueeze(1), -1e10).softmax(-1)
        mixed = (self.dropout(weight).unsqueeze(-1) * values).sum(2).reshape(b, -1)
        out: Tensor = self.layer_norm(self.dropout(self.residual_fc(mixed)) + query)
        return out


class TGN(nn.Module):
    """Memory, last message per node, GRU, one attention layer.

    State (memory, its last update, the pending messages) is changed by positives alone, and detached per batch.

    Args:
        num_nodes: largest id N.
        node_dim: width of memory, node features and embeddings.
        edge_dim: width of edge features.
        time_dim: width of the time code.
        neighbors: latest neighbours attended to.
        heads: attention heads.
        dropout: of the attention.
    """

    memory: Tensor
    last_update: Tensor
    message: Tensor
    message_time: Tensor
    pending: Tensor

    def __init__(
        self,
        num_nodes: int,
        node_dim: int = 172,
        edge_dim: int = 172,
        time_dim: int = 100,
        neighbors: int = 10,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_nodes, self.neighbors = num_nodes, neighbors
        self.node_dim, self.edge_dim = node_dim, edge_dim
        self.time_encoder = TimeEncoder(time_dim)
        message = 2 * node_dim + time_dim + edge_dim
        self.gru = nn.GRUCell(message, node_dim)
        self.attention = TemporalAttention(node_dim + time_dim, node_dim + edge_dim + time_dim, heads, dropout)
        self.merge = LinkHead(node_dim + time_dim, node_dim, node_dim, node_dim)
        self.head = LinkHead(node_dim, node_dim, node_dim, 1)
        self.message_dim = message
        self.resize(num_nodes)

    # -- state ------------------------------------------------------------------------------------------------------

    def resize(self, num_nodes: int) -> None:
        """Empty state for ids up to ``num_nodes``; weights do not depend on it."""
        self.num_nodes, device = num_nodes, self.gru.weight_hh.device
        shapes = {"memory": (self.node_dim,), "last_update": (), "message": (self.message_dim,), "message_time": ()}
        for name, shape in shapes.items():
            dtype = torch.float64 if name in ("last_update", "message_time") else torch.float32
            empty = torch.zeros(num_nodes + 1, *shape, dtype=dtype, device=device)
            self.register_buffer(name, empty, persistent=False)
        pending = torch.zeros(num_nodes + 1, dtype=torch.bool, device=device)
        self.register_buffer("pending", pending, persistent=False)

    def reset(self) -> None:
        """Empty memory and messages."""
        for buffer in self.buffers():
            buffer.zero_()

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all state."""
        return {name: buffer.clone() for name, buffer in self.named_buffers()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Copy a snapshot back in place."""
        for name, buffer in self.named_buffers():
            if snapshot[name].shape != buffer.shape:
                raise ValueError(f"snapshot {name} of {tuple(snapshot[name].shape)}, state of {tuple(buffer.shape)}")
            buffer.copy_(snapshot[name])

    def current(self, nodes: Tensor) -> Tensor:
        """Memory ``(B, D)`` of nodes with their pending messages applied."""
        unique, back = torch.unique(nodes, return_inverse=True)
        old = self.memory[unique]
        new = self.gru(self.message[unique], old)
        return torch.where(self.pending[unique].unsqueeze(1), new, old)[back]

    # -- embedding --------------------------------------------------------------------------------------------------

    def embed(self, nodes: Tensor, now: Tensor, past: Any, features: Any) -> Tensor:
        """Embeddings ``(B, D)``.

        Args:
            nodes: ids ``(B,)``.
            now: query times ``(B,)``.
            past: the latest neighbours, arrays ``(B, K)``.
            features: feature tables.
        """
        everyone = torch.cat([nodes.unsqueeze(1), past.ids], 1)
        state = self.current(everyone.flatten()).view(*everyone.shape, -1)
        node, edge = features.lookup(everyone, past.edge_id, self.node_dim, self.edge_dim)
        state = state if node is None else state + node
        edge = state.new_zeros(*past.ids.shape, self.edge_dim) if edge is None else edge
        code = self.time_encoder(gaps(now, past.time))
        own = state[:, 0]
        query = torch.cat([own, self.time_encoder(own.new_zeros(len(own)))], -1)
        mixed = self.attention(query, torch.cat([state[:, 1:], edge, code], -1), past.ids != 0)
        out: Tensor = self.merge(mixed, own)
        return out

    def forward(self, src: Tensor, dst: Tensor) -> Tensor:
        """Logits ``(B,)``."""
        logits: Tensor = self.head(src, dst).squeeze(-1)
        return logits

    @torch.no_grad()
    def write(self, src: Tensor, dst: Tensor, time: Tensor, edge_feat: Tensor | None) -> None:
        """Apply the pending messages of a batch's nodes, then leave the batch's own messages pending."""
        nodes = torch.unique(torch.cat([src, dst]))
        updated = self.current(nodes)
        self.last_update[nodes] = torch.where(self.pending[nodes], self.message_time[nodes], self.last_update[nodes])
        self.memory[nodes] = updated
        self.pending[nodes] = False
        edge = self.memory.new_zeros(len(src), self.edge_dim) if edge_feat is None else edge_feat
        for own, other in ((src, dst), (dst, src)):
            gap = (time.double() - self.last_update[own]).to(torch.float32)
            message = torch.cat([self.memory[own], self.memory[other], self.time_encoder(gap), edge], -1)
            last = _last_of_each(own)
            self.message[own[last]] = message[last]
            self.message_time[own[last]] = time[last].double()
            self.pending[own[last]] = True

    def score(self, batch: Any, features: Any, *, write: bool = True) -> Tensor:
        """Logits ``(B, 1+K)``; then, with ``write``, the positives change the state.

        Raises:
            ValueError: the loader's sequences are shorter than ``neighbors + 1``.
        """
        if batch.src.ids.shape[-1] != self.neighbors + 1:
            raise ValueError(
                f"sequences of {batch.src.ids.shape[-1]}: set data.init_args.length to {self.neighbors + 1}"
            )
        shape = batch.pair_src.shape
        now = batch.time.repeat_interleave(shape[1])
        ends = []
        for nodes, side in ((batch.pair_src, batch.src), (batch.pair_dst, batch.dst)):
            arrays = [a[..., 1:].flatten(0, 1) for a in side[:3]]
            ends.append(self.embed(nodes.flatten(), now, type(side)(*arrays, side.count.flatten() - 1), features))
        logits: Tensor = self(*ends).view(shape)
        if write:
            _, edge = features.lookup(batch.pair_src[:, 0], batch.event, self.node_dim, self.edge_dim)
            self.write(batch.pair_src[:, 0], batch.pair_dst[:, 0], batch.time, edge)
        return logits

    @classmethod
    def from_reference(cls, state: Mapping[str, Tensor], **sizes: int) -> TGN:
        """A network with the official weights; ``sizes``: num_nodes, neighbors, heads."""
        node = state["0.memory_updater.memory_updater.weight_hh"].shape[1]
        time = state["0.time_encoder.w.weight"].shape[0]
        key = state["0.embedding_module.temporal_conv_layers.0.key_projection.weight"].shape[1]
        net = cls(node_dim=node, edge_dim=key - node - time, time_dim=time, **sizes)
        renames = {
            "memory_updater.memory_updater": "gru",
            "embedding_module.temporal_conv_layers.0": "attention",
            "embedding_module.merge_layers.0": "merge",
            "embedding_module.time_encoder": "time_encoder",
        }
        load_reference(net, state, renames)
        return net


def _last_of_each(nodes: Tensor) -> Tensor:
    """Position of the last occurrence of every distinct id."""
    unique, back = torch.unique(nodes, return_inverse=True)
    places = torch.arange(len(nodes), device=nodes.device)
    return torch.zeros(len(unique), dtype=torch.int64, device=nodes.device).scatter_reduce_(0, back, places, "amax")
