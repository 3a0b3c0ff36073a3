"""``septet bench cake``: what one decode step may cost, and what it does cost, full and compressed.

Needs torch and the kernels only. Times are medians; every peer is measured in the same run.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.kernels.cache import RaggedLayer
from septet.kernels.policies import CAKE, AdaKV, FullCache, Policy, PyramidKV, SnapKV, window_stats

Row = dict[str, Any]

SHAPES = {
    "Llama2-7B": (32, 32, 128, 6.74e9),
    "Llama3.1-8B": (32, 8, 128, 8.03e9),
    "Mistral-7B": (32, 8, 128, 7.25e9),
}
"""Layers, KV heads, head size, parameters."""


def row(
    name: str,
    value: float,
    unit: str,
    peer: str = "",
    peer_value: float | None = None,
    limit: float | None = None,
    note: str = "",
) -> Row:
    """One row of the record; ratio = value / peer_value."""
    ratio = value / peer_value if peer_value else None
    names = ("name", "value", "unit", "peer", "peer_value", "ratio", "limit", "note")
    return dict(zip(names, (name, value, unit, peer, peer_value, ratio, limit, note), strict=True))


def seconds(function: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """Median seconds of a call."""
    function()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ragged(
    batch: int, heads: int, tokens: int, skew: float, dim: int, dtype: torch.dtype, device: str, seed: int = 0
) -> RaggedLayer:
    """A layer whose lengths are proportional to ``U^skew + 0.02``, ``tokens`` per head on average."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(batch * heads, generator=generator).double() ** skew + 0.02
    if skew <= 1:
        weight = torch.ones_like(weight)
    counts = (weight / weight.sum() * tokens * batch * heads).long().clamp(min=1)
    parts = [torch.randn(int(n), dim, device=device).to(dtype) for n in counts]
    other = [torch.randn(int(n), dim, device=device).to(dtype) for n in counts]
    grid = range(0, batch * heads, heads)
    return RaggedLayer([parts[b : b + heads] for b in grid], [other[b : b + heads] for b in grid])


def roofline(bandwidth: float) -> list[Row]:
    """(weights + KV) / bandwidth of one decode step in bf16, full against C = 1024 (arithmetic.

    Nothing is measured).
    """
    rows = []
    for name, (layers, heads, dim, params) in SHAPES.items():
        for batch, context in ((1, 131072), (8, 131072)):
            weights, per_token = 2 * params, layers * heads * dim * 2 * 2
            full = (weights + batch * context * per_token) / bandwidth * 1e3
            small = (weights + batch * 1024 * per_token) / bandwidth * 1e3
            rows.append(
                row(f"limit/{name}/b{batch}/{context // 1024}K", small, "ms/token", "full cache", full, note="computed")
            )
    return rows


def append_cost(device: str) -> list[Row]:
    """Time of one append to a short and to a long layer."""
    times = []
    for tokens in (512, 32768):
        layer = ragged(1, 8, tokens, 1, 128, torch.float32, device)
        new = torch.randn(1, 8, 1, 128, device=device)

        def push(layer: RaggedLayer = layer, new: Tensor = new) -> None:
            layer.append(new, new)

        times.append(seconds(push, 31, device))
    return [row("append to 32768 tokens", times[1] * 1e6, "us", "to 512 tokens", times[0] * 1e6)]


class HFStyle:
    """A full cache as commonly written: concatenate every step, repeat keys for the group."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def step(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Append and attend."""
        keys, values = torch.cat([self.keys, key], 2), torch.cat([self.values, value], 2)
        group = query.shape[1] // key.shape[1]
        return F.scaled_dot_product_attention(
            query, keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        )


def decode_table(
    device: str, contexts: list[int], capacity: int, batch: int, dtype: torch.dtype, repeats: int
) -> list[Row]:
    """One layer's append and attention against context: HF-style full, preallocated full, every policy.

    Random keys.
    """
    rows = []
    for context in contexts:
        key = torch.randn(batch, 8, context, 128, device=device, dtype=dtype)
        window = torch.randn(batch, 32, 32, 128, device=device, dtype=dtype)
        query, new = window[:, :, :1].contiguous(), key[:, :, :1].contiguous()
        slow = HFStyle(key, key)
        baseline = seconds(lambda s=slow, q=query, n=new: s.step(q, n, n), repeats, device)  # type: ignore[misc]
        times: dict[str, tuple[float, int]] = {}
        policies: list[Policy] = [
            FullCache(),
            SnapKV(capacity),
            PyramidKV(capacity),
            AdaKV(capacity),
            CAKE(capacity, decode="none"),
        ]
        for policy in policies:
            times[policy.slug] = _one_layer(policy, window, key, query, new, repeats, device)
        full, full_bytes = times["full"]
        rows.append(
            row(
                f"decode/{context}/full",
                full * 1e3,
                "ms/layer",
                "HF-style full",
                baseline * 1e3,
                note=f"{full_bytes} bytes",
            )
        )
        for name, (value, size) in times.items():
            if name != "full":
                note = f"{size} bytes, byte ratio {size / full_bytes:.4f}"
                rows.append(
                    row(f"decode/{context}/{name}-{capacity}", value * 1e3, "ms/layer", "full", full * 1e3, note=note)
                )
    return rows


def _one_layer(
    policy: Policy, window: Tensor, key: Tensor, query: Tensor, new: Tensor, repeats: int, device: str
) -> tuple[float, int]:
    """Seconds of append + attention after the policy trimmed one layer, and its live bytes."""
    from septet.kernels.cache import CompressedCache

    cache = CompressedCache(policy, 1, key.shape[1], key.shape[0])
    cache.prefill(0, window, key, key)
    size = cache.memory_bytes()
    return seconds(lambda: cache.attention(0, query, new, new), repeats, device), size


def prefill_overhead(device: str, context: int, dtype: torch.dtype) -> list[Row]:
    """Attention of one layer's prompt against scoring it (window 32), 32 query heads over 8 KV heads."""
    key = torch.randn(1, 8, context, 128, device=device, dtype=dtype)
    query = torch.randn(1, 32, context, 128, device=device, dtype=dtype)
    attention = seconds(
        lambda: F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True), 3, device
    )
    tail = query[:, :, -32:].contiguous()
    scoring = seconds(lambda: window_stats(tail, key), 5, device)
    note = "share of the attention alone; projections and MLP come on top"
    return [
        row(f"prefill scoring/{context}", scoring * 1e3, "ms/layer", "prompt attention", attention * 1e3, note=note)
    ]


def run(device: str, quick: bool) -> list[Row]:
    """All rows for a device ("cpu" or "cuda")."""
    torch.manual_seed(0)
    if device == "cuda":
        from septet.launch.bench.cake_gpu import gpu_rows

        return gpu_rows(quick)
    from septet.launch.bench.cake_cpu import cpu_rows

    return cpu_rows(quick)
