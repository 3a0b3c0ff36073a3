"""What the structure pass hands to its backends, and the plain group loop that every backend must equal."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from septet.kernels.hashing.memory import HashNeighborMemory


class Stream(NamedTuple):
    """Events, asked pairs and their sequences; positions ``j < ..._len`` are alive, others give 0 and write nothing.

    Attributes:
        src, dst: event ends ``(E,)``.
        query_src, query_dst: asked pairs ``(E, Q)``.
        src_ids, dst_ids: sequences of the asked pairs ``(E, Q, L)``.
        src_len, dst_len: alive positions of each ``(E, Q)``.
        offsets: group bounds ``(G+1,)``.
        write_src_ids, write_dst_ids: sequences of the events ``(E, L)``; None: nothing is written.
        write_src_len, write_dst_len: alive positions of each ``(E,)``.
    """

    src: Tensor
    dst: Tensor
    query_src: Tensor
    query_dst: Tensor
    src_ids: Tensor
    dst_ids: Tensor
    src_len: Tensor
    dst_len: Tensor
    offsets: Tensor
    write_src_ids: Tensor | None = None
    write_dst_ids: Tensor | None = None
    write_src_len: Tensor | None = None
    write_dst_len: Tensor | None = None

    def events(self, start: int, stop: int) -> Stream:
        """The events ``start:stop``, with all offsets kept."""
        fields = self._asdict()
        return Stream(**{k: a if k == "offsets" or a is None else a[start:stop] for k, a in fields.items()})


def one_column(query: Tensor) -> bool:
    """Whether all columns of ``(E, Q)`` ask the same node: what depends on it alone is then computed once."""
    return query.shape[1] > 1 and bool((query == query[:, :1]).all())


def alive(length: Tensor, size: int) -> Tensor:
    """Mask ``(..., size)`` of the positions below ``length`` ``(...)``."""
    return torch.arange(size, device=length.device) < length.unsqueeze(-1)


def write_group(memory: HashNeighborMemory, part: Stream, order: str) -> None:
    """Write the events of one group; inside a group the alive lengths agree unless padding is masked."""
    if part.write_src_ids is None or part.write_dst_ids is None:
        return
    assert part.write_src_len is not None
    assert part.write_dst_len is not None
    src_ids = part.write_src_ids[:, : int(part.write_src_len.max())]
    dst_ids = part.write_dst_ids[:, : int(part.write_dst_len.max())]
    memory.update_unchecked(part.src, part.dst, src_ids, dst_ids, order)


def run_groups(memory: HashNeighborMemory, stream: Stream, order: str) -> tuple[Tensor, Tensor]:
    """Encode and write group after group through the memory's own methods: features ``(E, Q, L, 5)`` of both sides."""
    src_feat = torch.zeros(*stream.src_ids.shape, 5, dtype=torch.uint8, device=stream.src.device)
    dst_feat = torch.zeros_like(src_feat)
    bounds = stream.offsets.tolist()
    for start, stop in pairwise(bounds):
        part = stream.events(start, stop)
        encoded = memory.encode_unchecked(
            part.query_src.flatten(), part.query_dst.flatten(), part.src_ids.flatten(0, 1), part.dst_ids.flatten(0, 1)
        )
        src_feat[start:stop] = encoded[0].view_as(src_feat[start:stop])
        dst_feat[start:stop] = encoded[1].view_as(dst_feat[start:stop])
        write_group(memory, part, order)
    src_feat *= alive(stream.src_len, src_feat.shape[2]).unsqueeze(-1)
    dst_feat *= alive(stream.dst_len, dst_feat.shape[2]).unsqueeze(-1)
    return src_feat, dst_feat
