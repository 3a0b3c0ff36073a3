"""Equal lengths on a GPU: PyTorch's SDPA against our Triton kernel, and what one eager decode step costs in launches.

The kernels are checked against float64 first. ``dense``: graph-captured time of one call over (batch, tokens, KV
heads), bf16, head size 128, four query heads per KV head; inputs rotate so that nothing stays in the L2 cache.
``eager``: wall time per layer of append, attention and eviction through ``CompressedCache``, of the append and of
``dense()`` alone, calls queued back to back; with ``--before FOLDER`` (an older copy of ``src/septet/kernels`` under
``FOLDER/src/septet``) beside that version, measured by a second process in the same run.

Usage: python benchmarks/cake/decode_dense.py [--out FOLDER] [--before FOLDER] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.kernels.attention import decode_attention
from septet.kernels.cache import CompressedCache, RaggedLayer
from septet.kernels.policies import build_policy

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
BATCHES, TOKENS, KV_HEADS = (1, 8, 32, 96), (1024, 8192, 32768), (1, 2, 4, 8)
GROUP, DIM, LAYERS = 4, 128, 8
LARGEST = 7_000_000_000
"""Bytes of the largest layer that is timed."""


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description="SDPA against Triton on equal lengths, and eager decode steps.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cake"), help="folder of the record")
    parser.add_argument("--before", type=Path, help="folder with src/septet/kernels of an older version")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument("--eager-only", action="store_true", help="print the eager rows as JSON (the second process)")
    options = parser.parse_args()
    if options.eager_only:
        print(json.dumps(eager_rows(options.tiny)))
        return
    start = time.perf_counter()
    rows = dense_rows(options.tiny) if CUDA else []
    eager = eager_rows(options.tiny)
    if options.before:
        for row, old in zip(eager, older(options.before, options.tiny), strict=True):
            row |= {"before": old["value"], "ratio": row["value"] / old["value"]}
    card = torch.cuda.get_device_name() if CUDA else "cpu"
    stamp = datetime.now(UTC)
    record = {
        "benchmark": "cake decode-dense",
        "date": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        "command": " ".join(["python", *(Path(w).name if Path(w).is_absolute() else w for w in sys.argv)]),
        "machine": {"accelerator": card, "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "triton": _triton()},
        "seconds": round(time.perf_counter() - start, 1),
        "dense": rows,
        "eager": eager,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{stamp:%Y-%m-%d}-decode-dense-{card.split()[-1].lower()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path, record["seconds"], "s")


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def older(folder: Path, tiny: bool) -> list[dict[str, Any]]:
    """The eager rows of another version of the kernels."""
    command = [sys.executable, __file__, "--eager-only", *(["--tiny"] if tiny else [])]
    env = {**os.environ, "PYTHONPATH": str(folder / "src")}
    found = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    rows: list[dict[str, Any]] = json.loads(found.strip().splitlines()[-1])
    return rows


def dense_rows(tiny: bool) -> list[dict[str, Any]]:
    """Microseconds and share of the copy bandwidth of every way over one layer of equal lengths."""
    from septet.launch.bench.cake_gpu import copy_bandwidth, correctness, graphed

    correctness()
    bandwidth = copy_bandwidth()
    rows: list[dict[str, Any]] = [{"name": "copy", "GB/s": bandwidth / 1e9}]
    for heads in KV_HEADS[:: 3 if tiny else 1]:
        for batch in BATCHES[: 2 if tiny else None]:
            for tokens in TOKENS[: 2 if tiny else None]:
                size = batch * heads * tokens * DIM * 4
                if size > LARGEST:
                    continue
                pairs = list(_pairs(batch, heads, tokens, max(1, min(12, 400_000_000 // size))))
                times = {name: graphed([call(q, x) for q, x in pairs], 10) for name, call in WAYS.items()}
                best = min(times, key=lambda name: times[name])
                rows.append(
                    {"batch": batch, "kv_heads": heads, "tokens": tokens, "MB": size / 1e6, "best": best}
                    | {f"{name}_us": round(t * 1e6, 2) for name, t in times.items()}
                    | {f"{name}_of_copy": round(size / t / bandwidth, 3) for name, t in times.items()}
                )
                del pairs
    return rows


def _pairs(batch: int, heads: int, tokens: int, copies: int) -> Iterator[tuple[Tensor, RaggedLayer]]:
    for _ in range(copies):
        key = torch.randn(batch, heads, tokens, DIM, device=DEVICE, dtype=DTYPE)
        layer = RaggedLayer.gather(key, key, [[None] * heads] * batch, [0] * batch)
        yield torch.randn(batch, heads * GROUP, 1, DIM, device=DEVICE, dtype=DTYPE), layer


def packed(query: Tensor, layer: RaggedLayer) -> Callable[[], Any]:
    """SDPA with the group's heads as rows."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    keys, values = _dense(layer)
    rows = query.reshape(query.shape[0], layer.n_kv_heads, -1, DIM)

    def call() -> Tensor:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(rows, keys, values)

    return call


def grouped(query: Tensor, layer: RaggedLayer) -> Callable[[], Any]:
    """SDPA with ``enable_gqa`` and PyTorch's flash kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    keys, values = _dense(layer)

    def call() -> Tensor:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            return F.scaled_dot_product_attention(query, keys, values, enable_gqa=True)

    return call


def triton(query: Tensor, layer: RaggedLayer) -> Callable[[], Any]:
    """The kernel for ragged lengths."""
    return lambda: decode_attention(query, layer, backend="triton")


def _dense(layer: RaggedLayer) -> tuple[Tensor, Tensor]:
    dense = layer.dense()
    assert dense is not None
    return dense


WAYS = {"packed": packed, "gqa": grouped, "triton": triton}


def eager_rows(tiny: bool) -> list[dict[str, Any]]:
    """Microseconds of wall time per layer."""
    rows = []
    for batch in (1, 8, 32)[: 2 if tiny else None]:
        for name in ("full", "adakv", "cake"):
            rows.append(_row(f"step {name} b{batch}", _step(name, batch)))
        layer = _pairs_one(batch)
        new = torch.randn(batch, 8, 1, DIM, device=DEVICE, dtype=DTYPE)
        where = torch.full((batch, 1), 5000)
        rows.append(_row(f"append b{batch}", _wall(lambda x=layer, n=new, w=where: x.append(n, n, w), 60)))  # type: ignore[misc]
        rows.append(_row(f"dense() b{batch}", _wall(layer.dense, 200)))
    return rows


def _row(name: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "value": round(seconds * 1e6, 2), "unit": "us/layer"}


def _pairs_one(batch: int) -> RaggedLayer:
    return next(_pairs(batch, 8, 1024, 1))[1]


def _step(name: str, batch: int) -> float:
    """Append, attention and the decode rule of one layer, mean over ``LAYERS`` layers of a step."""
    policy: Any = "full" if name == "full" else {"name": name, "capacity": 512, "window": 32}
    cache = CompressedCache(build_policy(policy), LAYERS, 8, batch)
    for layer in range(LAYERS):
        generator = torch.Generator(DEVICE).manual_seed(layer)
        key = torch.randn(batch, 8, 1024, DIM, device=DEVICE, dtype=DTYPE, generator=generator)
        query = torch.randn(batch, 32, 32, DIM, device=DEVICE, dtype=DTYPE, generator=generator)
        cache.prefill(layer, query, key, key)
    query, new = query[:, :, :1].contiguous(), key[:, :, :1].contiguous()

    def step() -> None:
        for layer in range(LAYERS):
            cache.attention(layer, query, new, new)

    return _wall(step, 24) / LAYERS


def _wall(function: Callable[[], Any], calls: int) -> float:
    """Seconds per call, queued back to back; the median of three rounds."""
    function()
    times = []
    for _ in range(3):
        _wait()
        start = time.perf_counter()
        for _ in range(calls // 3):
            function()
        _wait()
        times.append((time.perf_counter() - start) / (calls // 3))
    return statistics.median(times)


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
