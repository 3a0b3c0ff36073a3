"""GPU part of ``septet bench cake``: ragged decode against skew beside flash varlen and SDPA, scoring.

Correctness first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.kernels.attention import decode_attention
from septet.kernels.attention.packed import pack
from septet.kernels.cache import RaggedLayer
from septet.kernels.policies import window_stats
from septet.launch.bench.cake import append_cost, decode_table, prefill_overhead, ragged, roofline, row

CASES = (
    (1, 1024, 1),
    (8, 1024, 1),
    (32, 1024, 1),
    (32, 1024, 2),
    (32, 1024, 4),
    (32, 1024, 8),
    (8, 8192, 1),
    (8, 8192, 4),
    (8, 8192, 8),
    (8, 32768, 1),
    (8, 32768, 4),
)


def graphed(functions: Sequence[Callable[[], Any]], replays: int = 20) -> float:
    """Median seconds per function of a captured graph that runs all of them (inputs rotate, launch gaps vanish)."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for function in functions:
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for function in functions:
            function()
    return _events(graph.replay, replays) / len(functions)


def _events(function: Callable[[], Any], replays: int) -> float:
    function()
    times = []
    for _ in range(replays):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    median: float = sorted(times)[len(times) // 2]
    return median


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device copy."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return float(2 * source.numel() * 4 / _events(lambda: target.copy_(source), 20))


def flash_peer(layer: RaggedLayer, query: Tensor) -> Callable[[], Any]:
    """PyTorch's flash kernel on packed copies made beforehand, one sequence per head."""
    cells = [(b, h) for b in range(layer.batch_size) for h in range(layer.n_kv_heads)]
    keys, values = (
        torch.cat([layer.keys(b, h) for b, h in cells])[:, None],
        torch.cat([layer.values(b, h) for b, h in cells])[:, None],
    )
    packed = pack(query, layer.n_kv_heads).flatten(0, 1).contiguous()
    lengths = layer.lengths_tensor.flatten()
    ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    starts = torch.arange(len(cells) + 1, dtype=torch.int32, device="cuda")
    longest = layer.max_length()

    def call() -> Any:
        return torch.ops.aten._flash_attention_forward(
            packed, keys, values, starts, ends, 1, longest, 0.0, False, False
        )

    return call


def ragged_rows(bandwidth: float, cases: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Share of the copy bandwidth by batch, tokens per head and skew."""
    rows = []
    for batch, tokens, skew in cases:
        size = batch * 8 * tokens * 128 * 4
        copies = max(1, min(12, 400_000_000 // size))
        layers = [ragged(batch, 8, tokens, skew, 128, torch.bfloat16, "cuda", seed=s) for s in range(copies)]
        queries = [torch.randn(batch, 32, 1, 128, device="cuda", dtype=torch.bfloat16) for _ in layers]
        pairs = list(zip(queries, layers, strict=True))
        live = sum(layer.memory_bytes() for layer in layers) / copies
        ours = graphed([lambda q=q, x=x: decode_attention(q, x, backend="triton") for q, x in pairs])  # type: ignore[misc]
        flash = graphed([flash_peer(layer, query) for query, layer in pairs])
        name = f"gpu/ragged b{batch} c{tokens} skew{skew}"
        note = (
            f"{live / 1e6:.1f} MB, {live / ours / bandwidth:.3f} of copy, flash varlen {live / flash / bandwidth:.3f}"
        )
        rows.append(row(name, live / ours / 1e9, "GB/s", "flash varlen", live / flash / 1e9, bandwidth / 1e9, note))
        if skew == 1:
            rows.append(_sdpa_row(name, pairs, live, ours, bandwidth))
        del layers, queries, pairs
    return rows


def _sdpa_row(
    name: str, pairs: Sequence[tuple[Tensor, RaggedLayer]], live: float, ours: float, bandwidth: float
) -> dict[str, Any]:
    calls = []
    for query, layer in pairs:
        dense = layer.dense()
        assert dense is not None
        calls.append(lambda q=query, d=dense: F.scaled_dot_product_attention(q, d[0], d[1], enable_gqa=True))
    peer = graphed(calls)
    packed = graphed([lambda q=q, x=x: decode_attention(q, x, backend="sdpa") for q, x in pairs])  # type: ignore[misc]
    note = f"our uniform path {live / packed / bandwidth:.3f}, SDPA enable_gqa {live / peer / bandwidth:.3f} of copy"
    return row(name, live / ours / 1e9, "GB/s", "SDPA enable_gqa", live / peer / 1e9, bandwidth / 1e9, note)


def correctness() -> list[dict[str, Any]]:
    """Relative error of the Triton kernels on fresh inputs against float64; raises if it is too large."""
    rows = []
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)):
        worst = 0.0
        for seed, (batch, tokens, skew, dim) in enumerate(
            ((3, 700, 4, 128), (2, 5000, 8, 64), (1, 9, 1, 128), (2, 1500, 2, 80))
        ):
            torch.manual_seed(int.from_bytes(torch.rand(1).numpy().tobytes(), "little") % 2**31)
            layer = ragged(batch, 4, tokens, skew, dim, dtype, "cuda", seed=seed)
            for _ in range(2):
                query = torch.randn(batch, 16, 1, dim, device="cuda").to(dtype)
                truth = decode_attention(query.double(), layer, backend="reference")
                out = decode_attention(query, layer, backend="triton").double()
                worst = max(worst, float((out - truth).norm() / truth.norm()))
                new = torch.randn(batch, 4, 1, dim, device="cuda").to(dtype)
                layer.append(new, new)
                layer.compact(
                    [[torch.arange(0, layer.length(b, h), 2, device="cuda") for h in range(4)] for b in range(batch)]
                )
        if not worst <= limit:
            raise RuntimeError(f"triton decode is wrong in {dtype}: relative error {worst}")
        rows.append(row(f"gpu/decode error {dtype}", worst, "relative", limit=limit))
    query, key = torch.randn(2, 16, 32, 128, device="cuda"), torch.randn(2, 4, 5000, 128, device="cuda")
    wanted, got = (
        window_stats(query.double(), key.double(), backend="reference"),
        window_stats(query, key, backend="triton"),
    )
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True)]
    if not max(errors) <= 1e-5:
        raise RuntimeError(f"triton window_stats is wrong: relative errors {errors}")
    rows.append(row("gpu/window_stats error", max(errors), "relative", limit=1e-5))
    return rows


def scoring_rows(contexts: Sequence[int]) -> list[dict[str, Any]]:
    """Window statistics by Triton against the chunked torch version."""
    rows = []
    for context in contexts:
        query = torch.randn(1, 32, 32, 128, device="cuda", dtype=torch.bfloat16)
        key = torch.randn(1, 8, context, 128, device="cuda", dtype=torch.bfloat16)
        ours = _events(lambda q=query, k=key: window_stats(q, k, backend="triton"), 20)  # type: ignore[misc]
        peer = _events(lambda q=query, k=key: window_stats(q, k, backend="torch"), 20)  # type: ignore[misc]
        rows.append(row(f"gpu/window_stats {context}", ours * 1e3, "ms/layer", "chunked torch", peer * 1e3))
    return rows


def gpu_rows(quick: bool) -> list[dict[str, Any]]:
    """Correctness, then times; the card's name is in the first row."""
    rows = correctness()
    bandwidth = copy_bandwidth()
    rows.insert(0, row("gpu/copy", bandwidth / 1e9, "GB/s", note=torch.cuda.get_device_name()))
    rows += ragged_rows(bandwidth, CASES[:4] if quick else CASES)
    rows += scoring_rows((4096, 32768))
    rows += append_cost("cuda")
    rows += decode_table(
        "cuda", [4096, 32768] if quick else [4096, 32768, 131072], 1024, 1 if quick else 8, torch.bfloat16, 20
    )
    rows += prefill_overhead("cuda", 32768, torch.bfloat16)
    return rows + roofline(bandwidth)
