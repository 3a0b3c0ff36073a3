"""Figures of the mnemonic center at 100,000 records, of recall and of the cold start of ``septet assign``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet.kernels.recall import topk
from septet.lightning_modules.smap.memory import MnemonicCenter

Row = dict[str, Any]


def run(device: str, quick: bool) -> list[Row]:
    """All rows; the store is measured on the local disk of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_store(Path(folder), 2_000 if quick else 100_000), *_recall(device, quick), *_cold_start()]


def _row(
    name: str, value: float, unit: str, limit: str, note: str = "", peer: str = "", peer_value: float | None = None
) -> Row:
    ratio = value / peer_value if peer_value else None
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio,
            "limit": limit, "note": note}  # fmt: skip


def _median(call: Callable[[int], Any], repeats: int) -> float:
    call(0)
    found = []
    for i in range(repeats):
        start = time.perf_counter()
        call(i)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _record(i: int) -> dict[str, Any]:
    return {
        "scenario": {"task": f"t{i % 50}", "metric": "mae", "direction": "min"}, "dataset": {"name": f"d{i % 5000}"},
        "model": {"name": f"m{i // 50 % 100}-{i}"}, "value": 1.0 + i % 97, "provenance": {"run_id": f"r{i}", "seed": 0},
    }  # fmt: skip


def _store(folder: Path, count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    with MnemonicCenter(folder / "store.sqlite") as store:
        start = time.perf_counter()
        with store._store.write():
            keys = [store.write(_record(i)) for i in range(count)]
        written = count / (time.perf_counter() - start)
        vectors = rng.normal(size=(count, 64)).astype(np.float32)
        store.index(keys, vectors, 1)
        picks = rng.integers(0, count, 500)
        get = _median(lambda i: store.get(keys[picks[i % 500]]), 500)
        match = _median(lambda i: store.match({"task": f"t{i % 50}"}, {"name": f"d{i % 50}"}), 100)
        near = _median(lambda i: store.recall(vectors[i], 16), 15)
        claims = _median(lambda i: store.claim(f"new{i}", "bench"), 500)
    note = f"{count:,} records"
    return [
        _row("exact look-up", get * 1e6, "us", "<= 50 at 100,000", note),
        _row("match (scenario, data set)", match * 1e3, "ms", "<= 2 at 100,000", f"{note}, about 20 entries each"),
        _row("top-16 of 64-d vectors", near * 1e3, "ms", "<= 25 at 100,000", note),
        _row("claims, one process", 1 / claims, "1/s", "reported", note),
        _row("records written in one transaction", written, "1/s", "reported", note),
    ]


def _recall(device: str, quick: bool) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    count = 2_000 if quick else 50_000
    query, keys = (torch.randn(n, 64, generator=generator).to(device) for n in (16, count))

    def plain() -> Any:
        d2 = (query**2).sum(1)[:, None] + (keys**2).sum(1)[None] - 2 * query @ keys.T
        return torch.topk(d2, 16, largest=False)

    ours, peer = _median(lambda _: topk(query, keys, 16), 5), _median(lambda _: plain(), 5)
    note = f"16 queries, {count:,} keys; ours orders ties exactly"
    return [_row("topk", ours * 1e3, "ms", "reported", note, "matmul and torch.topk", peer * 1e3)]


def _cold_start() -> list[Row]:
    """Wall time of new processes; the note holds their CPU time, which a loaded machine does not stretch."""
    import resource

    head = ["-c", "import sys; from septet.launch.assign import main; sys.exit(main(sys.argv[1:]))"]
    found = []
    for task, metric, note in (
        ("traffic_speed", "mae", "300 records of the shipped tables"),
        ("forecasting", "mase", "5,820 records of the shipped tables"),
    ):
        words = [sys.executable, *head, "--task", task, "--metric", metric, "--ledger", "none", "--json"]

        def call(_: int, words: list[str] = words) -> None:
            subprocess.run(words, check=True, capture_output=True)

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall = _median(call, 3)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 4
        found.append(_row(f"assign, cold start, {task}", wall, "s", "<= 1", f"a new process, {note}; CPU {cpu:.2f} s"))
    return found
