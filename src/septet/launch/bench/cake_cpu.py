"""CPU part of ``septet bench cake``: attention over caches that do not fit the processor's own caches.

Inputs rotate over ``SPAN`` bytes, so that keys and values come from memory as in a model of many layers, and every
peer is timed in turn with ours.
"""

import copy
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.kernels.attention import decode_attention
from septet.kernels.attention.packed import pack
from septet.kernels.cache import CompressedCache, RaggedLayer
from septet.kernels.policies import CAKE, AdaKV, FullCache, Policy, PyramidKV, SnapKV
from septet.launch.bench.cake import (
    HFStyle,
    append_cost,
    prefill_overhead,
    ragged,
    roofline,
    row,
)

Row = dict[str, Any]
Calls = Sequence[Callable[[], Any]]
SPAN = 640 * 2**20
"""Bytes that a measurement walks over; more than the level-3 caches of current servers give one job."""


def alternating(ways: Mapping[str, Calls], rounds: int) -> dict[str, float]:
    """Median seconds per call of each way; all ways are timed in turn in every round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for calls in ways.values():
        calls[0]()
    for _ in range(rounds):
        for name, calls in ways.items():
            start = time.perf_counter()
            for call in calls:
                call()
            times[name].append((time.perf_counter() - start) / len(calls))
    return {name: statistics.median(values) for name, values in times.items()}


def _copies(size: int, span: int, most: int = 96) -> int:
    return max(1, min(most, -(-span // size)))


def uniform_rows(tokens: int, span: int, rounds: int) -> list[Row]:
    """Decode attention over equal lengths beside a plain read of memory, ``repeat_kv`` and ``enable_gqa``."""
    size = 8 * tokens * 128 * 8
    layers = [ragged(1, 8, tokens, 1, 128, torch.float32, "cpu", seed) for seed in range(_copies(size, span))]
    query = torch.randn(1, 32, 1, 128)
    buffer = torch.randn(span // 4)

    def peer(layer: RaggedLayer, how: str) -> Tensor:
        dense = layer.dense()
        assert dense is not None
        if how == "gqa":
            return F.scaled_dot_product_attention(query, *dense, enable_gqa=True)
        keys, values = (x.repeat_interleave(4, 1) for x in dense)
        return F.scaled_dot_product_attention(query, keys, values)

    ways: dict[str, Calls] = {
        "ours": [lambda x=x: decode_attention(query, x) for x in layers],  # type: ignore[misc]
        "stream": [buffer.sum],
        "enable_gqa": [lambda x=x: peer(x, "gqa") for x in layers],  # type: ignore[misc]
        "repeat_kv": [lambda: peer(layers[0], "repeat")],
    }
    times = alternating(ways, rounds)
    rate = span / times["stream"] / 1e9
    speed = {name: size / times[name] / 1e9 for name in ("ours", "enable_gqa", "repeat_kv")}
    name = f"uniform {tokens} x 8 heads"
    return [
        row("stream read", rate, "GB/s", note=f"{torch.get_num_threads()} threads, {span / 1e6:.0f} MB"),
        row(name, speed["ours"], "GB/s", "stream read", rate, 0.75 * rate, "target: 75 % of the stream read"),
        row(name, speed["ours"], "GB/s", "enable_gqa", speed["enable_gqa"]),
        row(name, speed["ours"], "GB/s", "repeat_kv", speed["repeat_kv"], note="keys and values repeated four times"),
    ]


def ragged_row(span: int, rounds: int) -> Row:
    """8,192 tokens over 8 heads, skew 3.1: the loop over heads against buffers padded beforehand, with a mask."""
    layers = [ragged(1, 8, 1024, 3.1, 128, torch.float32, "cpu", seed=0) for _ in range(_copies(8 * 2**20, span))]
    query = torch.randn(1, 32, 1, 128)
    packed = pack(query, 8)
    padded = [layer.padded() for layer in layers]

    def masked(keys: Tensor, values: Tensor, live: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(packed, keys, values, attn_mask=live[:, :, None].expand(-1, -1, 4, -1))

    ways: dict[str, Calls] = {
        "ours": [lambda x=x: decode_attention(query, x) for x in layers],  # type: ignore[misc]
        "padded": [lambda p=p: masked(*p) for p in padded],  # type: ignore[misc]
    }
    times = alternating(ways, rounds)
    counts = layers[0].lengths.flatten()
    note = f"target: half of the padded time; longest head {int(counts.max())}, mean {float(counts.float().mean()):.0f}"
    return row(
        "ragged 8192 tokens, skew 3.1",
        times["ours"] * 1e3,
        "ms",
        "padded beforehand, with mask",
        times["padded"] * 1e3,
        0.5 * times["padded"] * 1e3,
        note,
    )


def decode_rows(context: int, capacities: Sequence[int], span: int, rounds: int) -> list[Row]:
    """Append and attention of one layer: HF-style full, preallocated full and every policy, and the byte ratio."""
    key = torch.randn(1, 8, context, 128)
    window = torch.randn(1, 32, 32, 128)
    query, new = window[:, :, :1].contiguous(), key[:, :, :1].contiguous()
    policies: list[Policy] = [FullCache()]
    for capacity in capacities:
        policies += [SnapKV(capacity), PyramidKV(capacity), AdaKV(capacity), CAKE(capacity, decode="none")]
    slow = HFStyle(key, key)
    ways: dict[str, Calls] = {"hf": [lambda: slow.step(query, new, new)]}
    sizes: dict[str, int] = {}
    for policy in policies:
        cache = CompressedCache(policy, 1, 8)
        cache.prefill(0, window, key, key)
        sizes[policy.label] = size = cache.memory_bytes()
        caches = [cache, *(copy.deepcopy(cache) for _ in range(_copies(size, span) - 1))]
        ways[policy.label] = [lambda c=c: c.attention(0, query, new, new) for c in caches]  # type: ignore[misc]
    times = alternating(ways, rounds)
    full = times["full"] * 1e3
    rows = [
        row(f"decode/{context}/full", full, "ms/layer", "HF-style full", times["hf"] * 1e3, note=_mb(sizes["full"]))
    ]
    for label in (policy.label for policy in policies[1:]):
        bytes_ratio, time_ratio = sizes[label] / sizes["full"], times[label] * 1e3 / full
        note = (
            f"{_mb(sizes[label])}, byte ratio {bytes_ratio:.4f}, time ratio / byte ratio {time_ratio / bytes_ratio:.2f}"
        )
        rows.append(row(f"decode/{context}/{label}", times[label] * 1e3, "ms/layer", "full", full, note=note))
    return rows


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def cpu_rows(quick: bool) -> list[Row]:
    """All rows; the load of the machine stands in the first one."""
    span = 16 * 2**20 if quick else SPAN
    rounds = 3 if quick else 9
    load = os.getloadavg()[0]
    rows = uniform_rows(1024 if quick else 8192, span, rounds)
    rows[0]["note"] += f", load average {load:.1f} on {os.cpu_count()} cores"
    rows.append(ragged_row(span, rounds))
    rows += append_cost("cpu")
    for context, capacities in ((1024, [256]), (4096, [256])) if quick else ((16384, [1024]), (65536, [1024, 4096])):
        rows += decode_rows(context, capacities, span, 3 if quick else 5)
    rows += prefill_overhead("cpu", 1024 if quick else 4096, torch.float32)
    return rows + roofline(4.3e12)
