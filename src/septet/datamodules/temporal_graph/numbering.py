"""From the ids of a file to those of the stream and back: what is asked and what is answered keeps the file's ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["src", "dst"]


@dataclass(frozen=True, eq=False)
class Numbering:
    """How the ids of a file became ids of the stream; the default leaves them as they are.

    Attributes:
        src_shift: added to ids of sources.
        dst_shift: added to ids of destinations; another one where users and items are numbered apart.
        users: last id of the users in the stream where items are numbered behind them, else 0.
        kept: shifted ids ``(N,)``, increasing, that were numbered anew from 1; None without ``compact``.
        names: names of nodes 1, 2, ... where the file has names instead of numbers.
    """

    src_shift: int = 0
    dst_shift: int = 0
    users: int = 0
    kept: Tensor | None = None
    names: tuple[str, ...] | None = None

    def inner(self, ids: Tensor, side: Side, nodes: int) -> Tensor:
        """Ids of the stream ``(E,)`` for ids of the file; 0 where no node can have that id."""
        shifted = ids + (self.src_shift if side == "src" else self.dst_shift)
        known = shifted >= 1
        if self.users:
            known &= (shifted <= self.users) if side == "src" else (shifted > self.users)
        if self.kept is not None:
            place = torch.searchsorted(self.kept, shifted).clamp(max=len(self.kept) - 1)
            known &= self.kept[place] == shifted
            shifted = place + 1
        return shifted.masked_fill(~(known & (shifted <= nodes)), 0)

    def outer(self, ids: Tensor, side: Side) -> list[int] | list[str]:
        """What the file calls the nodes ``(E,)`` of the stream."""
        if self.kept is not None:
            ids = self.kept[ids - 1]
        if self.names is not None:
            return [self.names[i - 1] for i in ids.tolist()]
        shifted: list[int] = (ids - (self.src_shift if side == "src" else self.dst_shift)).tolist()
        return shifted
