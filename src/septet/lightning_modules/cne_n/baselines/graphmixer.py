"""GraphMixer: an MLP mixer over the latest edges (Cong et al., ICLR 2023), as evaluated by DyGLib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from septet.lightning_modules.cne_n.baselines.layers import FeedForward, LinkHead, TimeEncoder, gaps, load_reference


class Mixer(nn.Module):
    """One mixer block: over tokens (half as wide inside), then over channels (four times), each with a residual.

    Args:
        tokens: number of tokens.
        channels: width of a token.
        dropout: inside.
    """

    def __init__(self, tokens: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(tokens)
        self.token_feedforward = FeedForward(tokens, int(0.5 * tokens), dropout)
        self.channel_norm = nn.LayerNorm(channels)
        self.channel_feedforward = FeedForward(channels, 4 * channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, K, C) -> (B, K, C)``."""
        x = x + self.token_feedforward(self.token_norm(x.transpose(1, 2))).transpose(1, 2)
        out: Tensor = x + self.channel_feedforward(self.channel_norm(x))
        return out


class GraphMixer(nn.Module):
    """Link encoder over the latest ``tokens`` edges, node encoder over the latest ``window`` neighbours.

    Args:
        node_dim: width of node features and embeddings.
        edge_dim: width of edge features and of tokens.
        time_dim: width of the fixed time code.
        tokens: K latest edges.
        window: number of neighbours in the node encoder (the official code's "time gap" is a count).
        num_layers: mixer blocks.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        node_dim: int = 172,
        edge_dim: int = 172,
        time_dim: int = 100,
        tokens: int = 20,
        window: int = 2000,
        num_layers: int = 2,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.tokens, self.window, self.edge_dim, self.node_dim = tokens, window, edge_dim, node_dim
        self.time_encoder = TimeEncoder(time_dim).requires_grad_(False)
        self.projection_layer = nn.Linear(edge_dim + time_dim, edge_dim)
        self.mlp_mixers = nn.ModuleList(Mixer(tokens, edge_dim, dropout) for _ in range(num_layers))
        self.output_layer = nn.Linear(edge_dim + node_dim, node_dim)
        self.head = LinkHead(node_dim, node_dim, node_dim, 1)

    def embed(
        self, edge: Tensor | None, delta: Tensor, count: Tensor, own: Tensor | None, window_sum: Tensor | None
    ) -> Tensor:
        """Embedding of nodes.

        Args:
            edge: features of the latest edges ``(B, K, Fe)``, left-aligned and oldest first; None for zeros.
            delta: time gaps ``(B, K)``, float.
            count: filled entries ``(B,)``.
            own: node features ``(B, Fn)``; None for zeros.
            window_sum: mean of the window's features, ``(B, Fn)``, divided by the window's size once more; None: zeros.

        Returns:
            ``(B, Fn)``.
        """
        filled = torch.arange(self.tokens, device=delta.device) < count.unsqueeze(1)
        code = self.time_encoder(delta) * filled.unsqueeze(-1)
        edge = code.new_zeros(*delta.shape, self.edge_dim) if edge is None else edge
        x = self.projection_layer(_front_padded(torch.cat([edge, code], -1), count))
        for mixer in self.mlp_mixers:
            x = mixer(x)
        node = x.new_zeros(len(x), self.node_dim) if own is None else own
        node = node if window_sum is None else node + window_sum
        out: Tensor = self.output_layer(torch.cat([x.mean(1), node], -1))
        return out

    def window_part(self, features: Tensor, count: Tensor) -> Tensor:
        """Window features ``(B, W, Fn)``: softmax over filled ones is 1/count, the mean divides by W again."""
        return features.sum(1) / count.clamp(min=1).unsqueeze(1) / self.window

    def forward(self, src: Tensor, dst: Tensor) -> Tensor:
        """Logits ``(B,)``."""
        logits: Tensor = self.head(src, dst).squeeze(-1)
        return logits

    def score(self, batch: Any, features: Any) -> Tensor:
        """Logits ``(B, 1+K)`` of a batch of links; the loader's length must be ``tokens + 1``.

        Raises:
            ValueError: another length, or node features (their 2,000-neighbour window is not in the batch).
        """
        if batch.src.ids.shape[-1] != self.tokens + 1:
            raise ValueError(f"sequences of {batch.src.ids.shape[-1]}: set data.init_args.length to {self.tokens + 1}")
        if features.node is not None:
            raise ValueError("GraphMixer on streams with node features is not served: their window is not in the batch")
        ends = []
        for side in (batch.src, batch.dst):
            ids, then, edges, count = (a.flatten(0, 1) for a in side)
            now = batch.time.repeat_interleave(len(ids) // len(batch.time))
            _, edge = features.lookup(ids[:, 1:], edges[:, 1:], self.node_dim, self.edge_dim)
            ends.append(self.embed(edge, gaps(now, then[:, 1:]), count - 1, None, None))
        logits: Tensor = self(*ends)
        return logits.view(batch.pair_src.shape)

    @classmethod
    def from_reference(cls, state: Mapping[str, Tensor], **sizes: int) -> GraphMixer:
        """A network with the official weights; ``sizes``: window."""
        layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("0.mlp_mixers."))
        channels, time_dim = state["0.projection_layer.weight"].shape[0], state["0.time_encoder.w.weight"].shape[0]
        net = cls(
            node_dim=state["0.output_layer.weight"].shape[0],
            edge_dim=channels,
            time_dim=time_dim,
            tokens=state["0.mlp_mixers.0.token_norm.weight"].shape[0],
            num_layers=layers,
            **sizes,
        )
        load_reference(net, state, {})
        return net


def _front_padded(x: Tensor, count: Tensor) -> Tensor:
    """Shift left-aligned entries ``(B, K, C)`` to the end, so that padding stands in front."""
    places = torch.arange(x.shape[1], device=x.device) - (x.shape[1] - count).unsqueeze(1)
    moved = x.gather(1, places.clamp(min=0).unsqueeze(-1).expand_as(x))
    return moved * (places >= 0).unsqueeze(-1)
