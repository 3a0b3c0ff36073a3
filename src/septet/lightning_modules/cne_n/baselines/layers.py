"""Parts that the baselines share, under the official code's names where weights are exchanged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from septet.lightning_modules.cne_n.model import TimeEncoder

__all__ = ["FeedForward", "LinkHead", "TimeEncoder", "gaps", "load_reference"]


class LinkHead(nn.Module):
    """Two linear maps over a concatenated pair, ReLU between: ``(B, a), (B, b) -> (B, out)``.

    Args:
        first: width of the first input.
        second: width of the second.
        hidden: width between.
        out: width of the result.
    """

    def __init__(self, first: int, second: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(first + second, hidden), nn.Linear(hidden, out)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Combine both inputs."""
        out: Tensor = self.fc2(torch.relu(self.fc1(torch.cat([first, second], -1))))
        return out


class FeedForward(nn.Module):
    """Linear, GELU, dropout, linear, dropout.

    Args:
        width: of input and output.
        hidden: width between.
        dropout: of both dropouts.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        out: Tensor = self.ffn(x)
        return out


def gaps(now: Tensor, then: Tensor) -> Tensor:
    """Time gaps ``(B, L)`` of entries ``then`` ``(B, L)`` at ``now`` ``(B,)``, subtracted in their own type."""
    return (now.unsqueeze(1) - then).to(torch.float32)


def load_reference(net: nn.Module, state: Mapping[str, Tensor], rename: Mapping[str, str]) -> None:
    """Load the official code's weights: ``0.`` is the encoder, ``1.`` the link head."""
    renamed = {}
    for key, value in state.items():
        part, name = key.split(".", 1)
        name = f"head.{name}" if part == "1" else name
        for old, new in rename.items():
            name = name.replace(old, new)
        renamed[name] = value.to(torch.float32)
    net.load_state_dict(renamed, strict=False)
    missing = set(net.state_dict()) - set(renamed) - _buffers(net)
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)[0]!r}: is it of another model?")


def _buffers(net: nn.Module) -> set[str]:
    """Names of all buffers."""
    return {name for name, _ in net.named_buffers()}
