"""DyGFormer: a transformer over patches of both sequences (Yu et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from septet.kernels.hashing import co_occurrence
from septet.lightning_modules.cne_n.baselines.layers import LinkHead, TimeEncoder, gaps, load_reference

CHANNELS = ("node", "edge", "time", "neighbor_co_occurrence")


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer, four times GELU.

    Args:
        width: of a token.
        heads: attention heads.
        dropout: of attention and both residuals.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.multi_head_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear_layers = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, width)])
        self.norm_layers = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, P, C) -> (B, P, C)``."""
        normed = self.norm_layers[0](x)
        x = x + self.dropout(self.multi_head_attention(normed, normed, normed, need_weights=False)[0])
        inner = self.dropout(nn.functional.gelu(self.linear_layers[0](self.norm_layers[1](x))))
        out: Tensor = x + self.dropout(self.linear_layers[1](inner))
        return out


class DyGFormer(nn.Module):
    """Scores a link from both sequences together.

    Args:
        node_dim: width of node features and embeddings.
        edge_dim: width of edge features.
        time_dim: width of the time code.
        channel_dim: width of each projected channel.
        patch: positions per patch.
        num_layers: transformer layers.
        heads: attention heads.
        dropout: everywhere.
    """

    def __init__(
        self,
        node_dim: int = 172,
        edge_dim: int = 172,
        time_dim: int = 100,
        channel_dim: int = 50,
        patch: int = 1,
        num_layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.patch, self.node_dim, self.edge_dim = patch, node_dim, edge_dim
        self.time_encoder = TimeEncoder(time_dim)
        self.count_encoder = nn.Sequential(nn.Linear(1, channel_dim), nn.ReLU(), nn.Linear(channel_dim, channel_dim))
        sizes = (node_dim, edge_dim, time_dim, channel_dim)
        self.projection_layer = nn.ModuleDict(
            {name: nn.Linear(patch * size, channel_dim) for name, size in zip(CHANNELS, sizes, strict=True)}
        )
        width = len(CHANNELS) * channel_dim
        self.transformers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(num_layers))
        self.output_layer = nn.Linear(width, node_dim)
        self.head = LinkHead(node_dim, node_dim, node_dim, 1)

    def embed(self, now: Tensor, src: Any, dst: Any, features: Any) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, Fn)`` of both ends.

        Args:
            now: query times ``(B,)``.
            src: sequence of the sources, arrays ``(B, L)``, position 0 the node itself.
            dst: sequence of the destinations.
            features: feature tables.
        """
        src, dst = self._cut(src), self._cut(dst)
        counts = co_occurrence(src.ids, dst.ids)
        tokens = [self._tokens(now, side, c, features) for side, c in zip((src, dst), counts, strict=True)]
        x = torch.cat(tokens, 1)
        for layer in self.transformers:
            x = layer(x)
        split = tokens[0].shape[1]
        return self.output_layer(x[:, :split].mean(1)), self.output_layer(x[:, split:].mean(1))

    def _cut(self, side: Any) -> Any:
        """Sequences cut or padded to the batch's longest, rounded up to whole patches."""
        size = -(-int(side.count.max()) // self.patch) * self.patch
        missing = max(0, size - side.ids.shape[1])
        arrays = (nn.functional.pad(a[:, :size], (0, missing)) for a in (side.ids, side.time, side.edge_id))
        return type(side)(*arrays, side.count)

    def _tokens(self, now: Tensor, side: Any, counts: Tensor, features: Any) -> Tensor:
        """Patches ``(B, P, 4 * channel)`` of one side."""
        filled = (side.ids != 0).unsqueeze(-1)
        code = self.time_encoder(gaps(now, side.time)) * filled
        node, edge = features.lookup(side.ids, side.edge_id, self.node_dim, self.edge_dim)
        node = code.new_zeros(*side.ids.shape, self.node_dim) if node is None else node
        edge = code.new_zeros(*side.ids.shape, self.edge_dim) if edge is None else edge
        common = self.count_encoder(counts.to(code.dtype).unsqueeze(-1)).sum(2)
        patches = (x.reshape(len(x), x.shape[1] // self.patch, -1) for x in (node, edge, code, common))
        return torch.cat([self.projection_layer[n](p) for n, p in zip(CHANNELS, patches, strict=True)], -1)

    def forward(self, src: Tensor, dst: Tensor) -> Tensor:
        """Logits ``(B,)``."""
        logits: Tensor = self.head(src, dst).squeeze(-1)
        return logits

    def score(self, batch: Any, features: Any, chunk: int = 4096) -> Tensor:
        """Logits ``(B, 1+K)``, in chunks where there are many negatives."""
        shape = batch.pair_src.shape
        now = batch.time.repeat_interleave(shape[1])
        sides = [type(s)(*(a.flatten(0, 1) for a in s)) for s in (batch.src, batch.dst)]
        parts = []
        for a in range(0, len(now), chunk):
            src, dst = (type(s)(*(x[a : a + chunk] for x in s)) for s in sides)
            parts.append(self(*self.embed(now[a : a + chunk], src, dst, features)))
        return torch.cat(parts).view(shape)

    @classmethod
    def from_reference(cls, state: Mapping[str, Tensor], **sizes: int) -> DyGFormer:
        """A network with the official weights; ``sizes``: patch, heads."""
        layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("0.transformers."))
        patch = sizes.pop("patch", 1)
        channel, node = state["0.projection_layer.node.weight"].shape
        net = cls(
            node_dim=node // patch,
            edge_dim=state["0.projection_layer.edge.weight"].shape[1] // patch,
            time_dim=state["0.time_encoder.w.weight"].shape[0],
            channel_dim=channel,
            patch=patch,
            num_layers=layers,
            **sizes,
        )
        old = "neighbor_co_occurrence_encoder.neighbor_co_occurrence_encode_layer"
        load_reference(net, state, {old: "count_encoder"})
        return net
