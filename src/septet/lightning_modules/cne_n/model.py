"""The CNE-N network (KDD 2024, arXiv 2407.20871, section 4): four channels, two blocks, a mean and a link head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

CHANNELS = ("node", "edge", "time", "structure")
STRUCTURE_WIDTH = 5
_RENAMED = {"projection_layer.": "projection.", "fusion_layer.": "blocks.", "output_layer.": "output."}


class TimeEncoder(nn.Module):
    """Time code ``cos(w dt + b)`` with frequencies from 1 to 1e-9, trainable.

    Args:
        dim: number of frequencies.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w = nn.Linear(1, dim)
        with torch.no_grad():
            self.w.weight.copy_((10.0 ** -torch.linspace(0, 9, dim)).unsqueeze(1))
            self.w.bias.zero_()

    def forward(self, delta: Tensor) -> Tensor:
        """Codes ``(..., dim)`` of time gaps ``(...)``."""
        return torch.cos(torch.addcmul(self.w.bias, delta.unsqueeze(-1), self.w.weight.squeeze(1)))


class Dropout(nn.Module):
    """Dropout whose CPU mask takes 16 random bits per value instead of a whole draw, a quarter of a step's time.

    The probability is rounded to 1/65,536 and the scale fits the rounded one, so the expectation is exact.

    Args:
        p: probability of a zero.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} is outside [0, 1)")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero values at random while training."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        threshold = round(self.p * 65_536)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: x.numel()].view(x.shape) >= threshold - 32_768
        return x * kept.to(x.dtype).mul_(65_536 / (65_536 - threshold))


class CNENet(nn.Module):
    """Scores a link from two sequences with co-neighbour counts.

    The four projections and the first block's matrix are one linear map; it is multiplied out once per call, so an
    absent feature costs nothing and a present one a single product.

    Args:
        node_dim: width of node features and of embeddings.
        edge_dim: width of edge features.
        time_dim: width of the time code.
        channel_dim: width of each projected channel.
        num_layers: position-wise blocks.
        dropout: inside the blocks.
        pool: ``"masked"`` averages filled positions; ``"all"`` the first max(count) positions (the official code).

    Raises:
        ValueError: unknown ``pool`` or ``num_layers < 1``.
    """

    def __init__(
        self,
        node_dim: int = 172,
        edge_dim: int = 172,
        time_dim: int = 100,
        channel_dim: int = 50,
        num_layers: int = 2,
        dropout: float = 0.1,
        pool: Literal["masked", "all"] = "masked",
    ) -> None:
        super().__init__()
        if pool not in ("masked", "all"):
            raise ValueError(f"unknown pool {pool!r}: choose 'masked' or 'all'")
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} is below 1")
        self.pool, self.node_dim, self.edge_dim = pool, node_dim, edge_dim
        width = len(CHANNELS) * channel_dim
        sizes = (node_dim, edge_dim, time_dim, STRUCTURE_WIDTH)
        self.time_encoder = TimeEncoder(time_dim)
        self.projection = nn.ModuleDict(
            {name: nn.Linear(size, channel_dim) for name, size in zip(CHANNELS, sizes, strict=True)}
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.LayerNorm(width))
            for _ in range(num_layers)
        )
        self.output = nn.Linear(width, node_dim)
        self.head = nn.Sequential(nn.Linear(2 * node_dim, node_dim), nn.ReLU(), nn.Linear(node_dim, 1))

    def embed(
        self,
        node_feat: Tensor | None,
        edge_feat: Tensor | None,
        delta_t: Tensor,
        structure: Tensor,
        count: Tensor,
    ) -> Tensor:
        """Embedding of each sequence (section 4.2).

        Args:
            node_feat: ``(B, L, Fn)``, or None for zeros.
            edge_feat: ``(B, L, Fe)``, or None for zeros.
            delta_t: query time minus entry time ``(B, L)``, float.
            structure: co-neighbour features ``(B, L, 5)``.
            count: filled positions ``(B,)``, the node itself included.

        Returns:
            ``(B, Fn)``.
        """
        filled = torch.arange(delta_t.shape[1], device=delta_t.device) < count.unsqueeze(1)
        if self.pool == "masked" and delta_t.device.type == "cpu":
            return self._embed_filled(node_feat, edge_feat, delta_t, structure, filled, count)
        code = self.time_encoder(delta_t)
        if self.pool == "all":
            code = code * filled.unsqueeze(-1)
        x = self._first_linear(node_feat, edge_feat, code, structure.to(code.dtype))
        out: Tensor = self.output(self._mean(self._after_first(x), filled, count))
        return out

    def _embed_filled(
        self,
        node: Tensor | None,
        edge: Tensor | None,
        delta_t: Tensor,
        structure: Tensor,
        filled: Tensor,
        count: Tensor,
    ) -> Tensor:
        """:meth:`embed` on the filled positions alone (their number is known without waiting on a CPU)."""
        node, edge = (None if x is None else x[filled] for x in (node, edge))
        x = self._first_linear(node, edge, self.time_encoder(delta_t[filled]), structure[filled].float())
        x = self._after_first(x)
        row = torch.arange(len(count)).repeat_interleave(count)
        total = x.new_zeros(len(count), x.shape[1]).index_add(0, row, x)
        out: Tensor = self.output(total / count.clamp(min=1).unsqueeze(1))
        return out

    def _after_first(self, x: Tensor) -> Tensor:
        """All blocks but the linear map of the first."""
        for number, block in enumerate(self.blocks):
            assert isinstance(block, nn.Sequential)
            x = block[1:](x) if number == 0 else block(x)
        return x

    def _linear(self, channel: str) -> nn.Linear:
        """Projection of a channel."""
        linear = self.projection[channel]
        assert isinstance(linear, nn.Linear)
        return linear

    def _first_linear(self, node: Tensor | None, edge: Tensor | None, code: Tensor, structure: Tensor) -> Tensor:
        """Projections and the first block's matrix as one product over the concatenated inputs."""
        block = self.blocks[0]
        assert isinstance(block, nn.Sequential)
        first = block[0]
        assert isinstance(first, nn.Linear)
        parts = dict(zip(CHANNELS, first.weight.chunk(len(CHANNELS), 1), strict=True))
        bias: Tensor = first.bias
        for name, part in parts.items():
            bias = bias + part @ self._linear(name).bias
        inputs = {"node": node, "edge": edge, "time": code, "structure": structure}
        present = {name: x for name, x in inputs.items() if x is not None}
        for name in inputs.keys() - present.keys():  # a zero gradient, not none: DDP waits for every parameter
            bias = bias + 0.0 * self._linear(name).weight.sum()
        weight = torch.cat([parts[name] @ self._linear(name).weight for name in present], 1)
        return nn.functional.linear(torch.cat(list(present.values()), -1), weight, bias)

    def _mean(self, x: Tensor, filled: Tensor, count: Tensor) -> Tensor:
        """Mean over positions ``(B, L, C) -> (B, C)``."""
        if self.pool == "all":
            return x[:, : int(count.max())].mean(1) if len(x) else x.mean(1)
        weight = filled.to(x.dtype) / count.clamp(min=1).to(x.dtype).unsqueeze(1)
        return torch.bmm(weight.unsqueeze(1), x).squeeze(1)

    def forward(self, h_src: Tensor, h_dst: Tensor) -> Tensor:
        """Logits ``(B,)`` of links from the embeddings of both ends, each ``(B, Fn)``."""
        logits: Tensor = self.head(torch.cat([h_src, h_dst], -1)).squeeze(-1)
        return logits

    @classmethod
    def from_reference(cls, state: Mapping[str, Tensor], pool: Literal["masked", "all"] = "all") -> CNENet:
        """A network with the weights of the official code, sizes inferred.

        Args:
            state: tensors under the official state-dict keys (``0.`` the encoder, ``1.`` the link head).
            pool: see the class.
        """
        layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("0.fusion_layer."))
        net = cls(
            node_dim=state["0.projection_layer.node.weight"].shape[1],
            edge_dim=state["0.projection_layer.edge.weight"].shape[1],
            time_dim=state["0.time_encoder.w.weight"].shape[0],
            channel_dim=state["0.projection_layer.node.weight"].shape[0],
            num_layers=layers,
            pool=pool,
        )
        renamed = {}
        for key, value in state.items():
            part, name = key.split(".", 1)
            if part == "1":
                name = "head." + name.replace("fc1", "0").replace("fc2", "2")
            for old, new in (
                ("projection_layer.", "projection."),
                ("fusion_layer.", "blocks."),
                ("output_layer.", "output."),
            ):
                name = name.replace(old, new)
            renamed[name] = value.to(torch.float32)
        net.load_state_dict(renamed)
        return net


def binary_cross_entropy(logits: Tensor, preset: str) -> Tensor:
    """Mean loss of links ``(B, 1+K)``, column 0 positive: on logits (``fixed``) or on their sigmoid (``released``)."""
    target = torch.zeros_like(logits)
    target[:, 0] = 1.0
    if preset == "released":
        return nn.functional.binary_cross_entropy(torch.sigmoid(logits), target)
    return nn.functional.binary_cross_entropy_with_logits(logits, target)


def parameter_count(net: nn.Module) -> int:
    """Number of trainable values."""
    return sum(math.prod(p.shape) for p in net.parameters() if p.requires_grad)
