"""Scaling of ``septet bench cne_n``: a power-law stream on disk, its index and its structure pass, in a process alone.

``python -m septet.launch.bench.cne_n_scale --nodes 10000000 --events 100000000 --folder DIR`` prints one line of JSON:
seconds and peak resident memory (mapped columns included) of each phase. The folder is removed afterwards unless
``--keep`` is given.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from septet.datamodules.temporal_graph import EventStream, read_events
from septet.datamodules.temporal_graph.columns import write_columns
from septet.datamodules.temporal_graph.synthetic import powerlaw_chunks
from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex, structure_pass

LENGTH, LONG, CHUNK = 10, 64, 65_536


def timed(name: str, work: Callable[[], Any], into: dict[str, Any]) -> Any:
    """Run ``work``; wall and CPU seconds and the peak memory so far go into ``into``."""
    start = time.perf_counter(), time.process_time()
    out = work()
    into[f"{name}_wall_s"] = round(time.perf_counter() - start[0], 2)
    into[f"{name}_cpu_s"] = round(time.process_time() - start[1], 2)
    into[f"{name}_peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)
    return out


def stream_through(stream: EventStream, index: TemporalNeighborIndex, memory: HashNeighborMemory, first: int) -> None:
    """Structure pass over the events from ``first`` on, one negative each, in chunks of whole timestamps."""
    start, total = first, len(stream)
    while start < total:
        stop = total
        if start + CHUNK < total:
            stop = max(start + 1, int(torch.searchsorted(stream.time, stream.time[start + CHUNK])))
        src, dst, now = (c[start:stop] for c in (stream.src, stream.dst, stream.time))
        query = torch.stack([dst, dst.flip(0)], 1)
        structure_pass(
            memory, index, src, dst, now, src.unsqueeze(1).expand_as(query), query, length=LENGTH, ids_only=True
        )
        start = stop


def measure(nodes: int, events: int, folder: Path, share: float = 1.0) -> dict[str, Any]:
    """All phases; ``share`` of the events, the last ones, go through the structure pass."""
    out: dict[str, Any] = {"nodes": nodes, "events": events, "passed": int(events * share)}
    timed("generate", lambda: write_columns(folder, powerlaw_chunks(nodes, events), events), out)
    few = torch.tensor([1, 2])
    TemporalNeighborIndex(few, few, few, num_nodes=2)  # compiles
    stream = timed("map", lambda: read_events(folder, "npy"), out)
    index = timed("index", lambda: TemporalNeighborIndex(stream.src, stream.dst, stream.time, num_nodes=nodes), out)
    memory = HashNeighborMemory(nodes, LONG)
    out["engine"] = memory.engine()
    stream_through(stream, index, memory, max(0, events - CHUNK))  # compiles; the table is emptied again
    memory.reset()
    timed("pass", lambda: stream_through(stream, index, memory, events - out["passed"]), out)
    out["index_gb"] = round(index.memory_bytes() / 1e9, 3)
    out["table_gb"] = round(memory.memory_bytes() / 1e9, 3)
    return out


def alone(nodes: int, events: int, share: float = 1.0) -> dict[str, Any]:
    """:func:`measure` in a process of its own, so that its peak memory is its own too."""
    sizes = ["--nodes", str(nodes), "--events", str(events), "--share", str(share)]
    command = [sys.executable, "-m", "septet.launch.bench.cne_n_scale", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m septet.launch.bench.cne_n_scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the events that go through the pass, the last ones"
    )
    parser.add_argument("--folder", type=Path, help="where the columns go; default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="septet-scale-"))
    try:
        print(json.dumps(measure(options.nodes, options.events, folder, options.share)))
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
