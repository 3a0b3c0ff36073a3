"""Triton decode attention over ragged caches: one work item per (sequence, KV head, chunk), partial results.

One combine.

The ``g`` query heads of a KV head are the rows of the products, so keys and values are read once. Work items are cut
by capacity, not by length, so that a plan stays valid until the layer moves to a new layout; items past the live
length do nothing.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
import math
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from septet.kernels.cache.ragged import RaggedLayer

ROWS = 16
"""Least number of rows of a tensor-core product."""


@triton.jit
def _block(  # noqa: ANN202
    q,  # noqa: ANN001
    keys,  # noqa: ANN001
    values,  # noqa: ANN001
    at,  # noqa: ANN001
    live,  # noqa: ANN001
    mask,  # noqa: ANN001
    top,  # noqa: ANN001
    total,  # noqa: ANN001
    acc,  # noqa: ANN001
    scale,  # noqa: ANN001
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Online softmax over one block of slots; ``scale`` includes log2(e)."""
    if MASKED:
        k = tl.load(keys + at, mask=mask, other=0.0)
        v = tl.load(values + at, mask=mask, other=0.0)
    else:
        k = tl.load(keys + at)
        v = tl.load(values + at)
    if WIDE:
        logits = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), input_precision="ieee") * scale
    else:
        logits = tl.dot(q, tl.trans(k)) * scale
    if MASKED:
        logits = tl.where(live[None, :], logits, -float("inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    prob = tl.exp2(logits - new_top[:, None])
    fade = tl.exp2(top - new_top)
    total = total * fade + tl.sum(prob, 1)
    if WIDE:  # noqa: SIM108
        part = tl.dot(prob, v.to(tl.float32), input_precision="ieee")
    else:
        part = tl.dot(prob.to(v.dtype), v)
    return new_top, total, acc * fade[:, None] + part


@triton.jit
def _split_kernel(  # noqa: ANN202
    query,  # noqa: ANN001
    keys,  # noqa: ANN001
    values,  # noqa: ANN001
    offsets,  # noqa: ANN001
    lengths,  # noqa: ANN001
    items,  # noqa: ANN001
    partial,  # noqa: ANN001
    maxima,  # noqa: ANN001
    sums,  # noqa: ANN001
    scale,  # noqa: ANN001
    chunk,  # noqa: ANN001
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One chunk of one (sequence, KV head): unnormalised output, running maximum and sum of its g rows."""
    item = tl.program_id(0)
    segment = tl.load(items + item * 2)
    start = tl.load(items + item * 2 + 1)
    length = tl.load(lengths + segment)
    offset = tl.load(offsets + segment)
    row = tl.arange(0, M)
    column = tl.arange(0, DIM_PAD)
    live_column = column < DIM
    q_at = (segment * GROUP + row)[:, None] * DIM + column[None, :]
    q = tl.load(query + q_at, mask=(row < GROUP)[:, None] & live_column[None, :], other=0.0)
    top = tl.full((M,), -float("inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, DIM_PAD), tl.float32)
    stop = tl.minimum(start + chunk, length)
    slot = tl.arange(0, BLOCK)
    if DIM == DIM_PAD:  # noqa: SIM108
        full = start + tl.maximum(stop - start, 0) // BLOCK * BLOCK
    else:
        full = start
    for begin in range(start, full, BLOCK):
        at = (offset + begin + slot)[:, None] * DIM + column[None, :]
        top, total, acc = _block(q, keys, values, at, slot, slot, top, total, acc, scale, MASKED=False, WIDE=WIDE)
    for begin in range(full, stop, BLOCK):
        at = (offset + begin + slot)[:, None] * DIM + column[None, :]
        live = begin + slot < stop
        mask = live[:, None] & live_column[None, :]
        top, total, acc = _block(q, keys, values, at, live, mask, top, total, acc, scale, MASKED=True, WIDE=WIDE)
    tl.store(maxima + item * M + row, top)
    tl.store(sums + item * M + row, total)
    out_at = (item * M + row)[:, None] * DIM_PAD + column[None, :]
    tl.store(partial + out_at, acc, mask=(row < GROUP)[:, None])


@triton.jit
def _combine_kernel(  # noqa: ANN202
    partial,  # noqa: ANN001
    maxima,  # noqa: ANN001
    sums,  # noqa: ANN001
    bounds,  # noqa: ANN001
    out,  # noqa: ANN001
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    M: tl.constexpr,
    TILE: tl.constexpr,
):
    """Join the chunks of one (sequence, KV head) for one query row, ``TILE`` chunks at a time."""
    segment = tl.program_id(0)
    row = tl.program_id(1)
    first = tl.load(bounds + segment)
    last = tl.load(bounds + segment + 1)
    column = tl.arange(0, DIM_PAD)
    top = -float("inf")
    total = 0.0
    acc = tl.zeros((DIM_PAD,), tl.float32)
    for begin in range(first, last, TILE):
        item = begin + tl.arange(0, TILE)
        inside = item < last
        item_sum = tl.load(sums + item * M + row, mask=inside, other=0.0)
        live = item_sum > 0.0
        item_top = tl.load(maxima + item * M + row, mask=live, other=-float("inf"))
        tile_top = tl.max(item_top, 0)
        if tile_top > -float("inf"):
            new_top = tl.maximum(top, tile_top)
            fade = tl.exp2(top - new_top)
            weight = tl.where(live, tl.exp2(item_top - new_top), 0.0)
            at = (item * M + row)[:, None] * DIM_PAD + column[None, :]
            part = tl.load(partial + at, mask=live[:, None], other=0.0)
            acc = acc * fade + tl.sum(part * weight[:, None], 0)
            total = total * fade + tl.sum(item_sum * weight, 0)
            top = new_top
    result = acc / tl.where(total > 0.0, total, 1.0)
    at = (segment * GROUP + row) * DIM + column
    tl.store(out + at, result.to(out.dtype.element_ty), mask=column < DIM)


class Launch(NamedTuple):
    """Launch shape of the split kernel.

    Attributes:
        block: slots per product.
        warps: warps of a work item.
        stages: loads in flight.
        items_per_multiprocessor: work items that the chunk size aims at.
    """

    block: int = 64
    warps: int = 4
    stages: int = 2
    items_per_multiprocessor: int = 4


DEFAULT = Launch()


class _Plan(NamedTuple):
    key: tuple[int, Launch]
    items: Tensor
    bounds: Tensor
    chunk: int


_plans: "WeakKeyDictionary[Any, _Plan]" = WeakKeyDictionary()


def work_plan(layer: "RaggedLayer", multiprocessors: int, launch: Launch) -> _Plan:
    """Chunks of about ``capacity / (items * SMs)`` slots, a multiple of the block.

    Kept until the layer's layout changes.
    """
    known = _plans.get(layer)
    if known is not None and known.key == (layer.version, launch):
        return known
    slots = [n for row in layer.capacities for n in row]
    wanted = sum(slots) / (launch.items_per_multiprocessor * multiprocessors)
    chunk = max(1, math.ceil(wanted / launch.block)) * launch.block
    items, bounds = [], [0]
    for segment, count in enumerate(slots):
        items += [(segment, start) for start in range(0, max(count, 1), chunk)]
        bounds.append(len(items))
    device = layer.device
    plan = _Plan(
        (layer.version, launch),
        torch.tensor(items, dtype=torch.int32, device=device),
        torch.tensor(bounds, dtype=torch.int32, device=device),
        chunk,
    )
    _plans[layer] = plan
    return plan


def attend_triton(query: Tensor, layer: "RaggedLayer", scale: float | None = None, launch: Launch = DEFAULT) -> Tensor:
    """Split and combine; see ``decode_attention``. Runs on CUDA, or on CPU tensors under ``TRITON_INTERPRET=1``.

    Raises:
        ValueError: CPU tensors without the interpreter, or more than 64 query heads per KV head.
    """
    if not query.is_cuda and not _interpreted():
        raise ValueError("backend 'triton' needs CUDA (or TRITON_INTERPRET=1 before triton is imported); use 'auto'")
    dim, group = layer.head_dim, query.shape[1] // layer.n_kv_heads
    if group > 64:
        raise ValueError(f"backend 'triton' takes up to 64 query heads per KV head, not {group}; use 'sdpa'")
    rows, padded = max(ROWS, triton.next_power_of_2(group)), max(16, triton.next_power_of_2(dim))
    sms = torch.cuda.get_device_properties(query.device).multi_processor_count if query.is_cuda else 8
    plan = work_plan(layer, sms, launch)
    count = len(plan.items)
    packed = query.contiguous()
    partial = torch.empty(count, rows, padded, dtype=torch.float32, device=query.device)
    maxima = torch.empty(count, rows, dtype=torch.float32, device=query.device)
    sums = torch.empty_like(maxima)
    out = torch.empty_like(packed)
    keys, values = layer.flat
    factor = (dim**-0.5 if scale is None else scale) * math.log2(math.e)
    half = query.dtype in (torch.float16, torch.bfloat16) and keys.dtype == query.dtype
    wide = not half or not query.is_cuda  # the interpreter's products are wrong for bf16
    shape = {"GROUP": group, "DIM": dim, "DIM_PAD": padded, "M": rows}
    where = (layer.offsets_tensor, layer.lengths_tensor, plan.items)
    _split_kernel[(count,)](
        packed,
        *(keys, values),
        *where,
        *(partial, maxima, sums),
        factor,
        plan.chunk,  # an argument, not a constant: a cache moves to new layouts, which must not compile again
        **shape,
        BLOCK=launch.block,
        WIDE=wide,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    _combine_kernel[(layer.batch_size * layer.n_kv_heads, group)](
        partial, maxima, sums, plan.bounds, out, **shape, TILE=16, num_warps=4
    )
    return out


def _interpreted() -> bool:
    import os

    return os.environ.get("TRITON_INTERPRET") == "1"
