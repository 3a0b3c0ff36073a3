"""Native CPU backend of the co-neighbour memory: the sequential loops of the specification, compiled by numba.

numba is optional and imported on first use; without it the torch backend gives the same bits. Nothing is compiled by
the user: the first call of a process compiles for a few seconds and keeps the machine code in numba's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septet.kernels.compiled import numba_available

if TYPE_CHECKING:
    from types import ModuleType

    from septet.kernels.hashing.memory import HashNeighborMemory
    from septet.kernels.hashing.neighbors import TemporalNeighborIndex
    from septet.kernels.hashing.stream import Stream


available = numba_available


def _loops() -> ModuleType:
    """The compiled loops.

    Raises:
        ImportError: numba is absent.
    """
    if not available():
        raise ImportError("backend 'native' needs the graph extra: pip install 'septet[graph]'")
    from septet.kernels.hashing import native_loops

    return native_loops


def build_index(src: Tensor, dst: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Counting sort of a stream by node: keys and neighbours ``(2E,)``, starts ``(N+2,)``; no other temporary.

    The columns are read once per pass from front to back, so memory-mapped ones need not fit into memory.
    """
    key = torch.empty(2 * len(src), dtype=torch.int64)
    neighbor = torch.empty(2 * len(src), dtype=torch.int32 if num_nodes < 2**31 else torch.int64)
    starts = torch.zeros(num_nodes + 2, dtype=torch.int64)
    _loops().build_index(*(a.numpy() for a in (src, dst, key, neighbor, starts)))
    return key, neighbor, starts


def sequence(
    index: TemporalNeighborIndex, nodes: Tensor, times: Tensor, length: int, *, ids_only: bool = False
) -> list[Tensor]:
    """Ids, times, edge ids ``(B, length)`` and counts ``(B,)``: one binary search per node, then a walk back."""
    assert index.starts is not None
    rest = len(nodes), 0 if ids_only else length
    ids, edges = (torch.zeros(*shape, dtype=torch.int64) for shape in ((len(nodes), length), rest))
    then, count = torch.zeros(rest, dtype=index.time.dtype), torch.zeros(len(nodes), dtype=torch.int64)
    known = torch.zeros(0, dtype=torch.int64) if index.edge_id is None else index.edge_id
    arrays = [index.key, index.starts, index.neighbor, index.time, known]
    asked = [_int64(nodes), times.to(index.time.dtype).contiguous().numpy()]
    out = [a.numpy() for a in (ids, then, edges, count)]
    _loops().sequence(index.radix, *(a.numpy() for a in arrays), *asked, length, *out)
    return [ids, then, edges, count]


def encode(
    table: Tensor, short: int, src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of both sides, uint8 ``(B, Ls, 5)`` and ``(B, Ld, 5)``."""
    out = [torch.zeros(*ids.shape, 5, dtype=torch.uint8) for ids in (src_ids, dst_ids)]
    loops = _loops()
    for own, other, ids, features in ((src, dst, src_ids, out[0]), (dst, src, dst_ids, out[1])):
        loops.encode_side(table.numpy(), short, _int64(own), _int64(other), _int64(ids), features.numpy())
    return out[0], out[1]


def update(
    table: Tensor,
    columns: Tensor,
    src: Tensor,
    dst: Tensor,
    src_ids: Tensor,
    dst_ids: Tensor,
    *,
    order: str,
    mask: bool,
) -> None:
    """Write one flush in place, sequentially."""
    full = torch.full_like(src, src_ids.shape[1]), torch.full_like(dst, dst_ids.shape[1])
    events = [_int64(a) for a in (src, dst, src_ids, dst_ids, *full)]
    _loops().update(table.numpy(), columns.numpy().view(np.uint16), *events, order == "phase", mask)


def run(memory: HashNeighborMemory, stream: Stream, order: str) -> tuple[Tensor, Tensor]:
    """The whole pass in one compiled loop over groups: features ``(E, Q, L, 5)`` of both sides."""
    src_feat = torch.zeros(*stream.src_ids.shape, 5, dtype=torch.uint8)
    dst_feat = torch.zeros_like(src_feat)
    write = stream.write_src_ids is not None
    own = stream[9:] if write else (stream.src_ids[:, 0], stream.dst_ids[:, 0], stream.src, stream.dst)
    asked = [_int64(a) for a in (*stream[2:8],)]
    events = [_int64(a) for a in (stream.src, stream.dst, *own)]
    columns = memory.columns.numpy().view(np.uint16)
    _loops().run(
        memory.table.numpy(), columns, memory.short, *asked, *events, _int64(stream.offsets),
        order == "phase", memory.padding == "mask", write, src_feat.numpy(), dst_feat.numpy(),
    )  # fmt: skip
    return src_feat, dst_feat


def _int64(x: Tensor | None) -> NDArray[np.int64]:
    """Contiguous int64 numpy view."""
    assert x is not None
    array: NDArray[np.int64] = x.to(torch.int64).contiguous().numpy()
    return array
