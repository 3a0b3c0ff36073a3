"""``septet bench [SLUG|launch]``: measures what the READMEs quote and writes dated JSON records."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError, did_you_mean
from septet.launch.methods import METHODS
from septet.launch.runs import write_json

_COLUMNS = ("name", "value", "unit", "peer", "peer_value", "ratio", "limit", "note")


def main(argv: Sequence[str]) -> int:
    """Run benchmarks; each writes ``<out>/<name>/<date>-<device>.json``."""
    known = [*METHODS, "launch"]
    parser = argparse.ArgumentParser(prog="septet bench", description="Medians, with a peer measured in the same run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of the records")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in known:
            raise UsageError(f"no benchmark {name!r}{did_you_mean(name, known)}")
    for name in options.names or known:
        if importlib.util.find_spec(f"septet.launch.bench.{name}") is None:
            print(f"{name}: no benchmark yet")
            continue
        rows = importlib.import_module(f"septet.launch.bench.{name}").run(options.device, options.quick)
        path = write_record(name, rows, options.device, options.out, quick=options.quick)
        _show(name, rows, path)
    return 0


def write_record(name: str, rows: list[dict[str, Any]], device: str, out: Path, *, quick: bool = False) -> Path:
    """Write one dated record with machine, versions and command, and return its path."""
    from septet.launch.record import git_state, versions

    stamp = datetime.now(UTC)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stamp:%Y-%m-%d}-{device}{'-quick' if quick else ''}.json"
    record = {
        "benchmark": name,
        "date": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        "command": f"septet bench {name} --device {device}{' --quick' if quick else ''}",
        "machine": machine(device),
        "versions": versions(),
        "git": git_state(),
        "rows": rows,
    }
    write_json(path, record)
    return path


def cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of this process, after one warm-up call."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def instantiate(entry: Mapping[str, Any]) -> Any:
    """The object that ``class_path`` and ``init_args`` of a configuration describe, without the command line."""
    module, _, name = str(entry["class_path"]).rpartition(".")
    return getattr(importlib.import_module(module), name)(**(entry.get("init_args") or {}))


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads and accelerator."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    card = torch.cuda.get_device_name() if device.startswith("cuda") and torch.cuda.is_available() else None
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "accelerator": card}


def _show(name: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Print the rows as lines."""
    print(f"{name}: {path}")
    for row in rows:
        value, ratio = row.get("value"), row.get("ratio")
        number = f"{value:.4g}" if isinstance(value, int | float) else str(value)
        peer = (
            f" | {row.get('peer')}: {row.get('peer_value'):.4g}"
            if isinstance(row.get("peer_value"), int | float)
            else ""
        )
        against = f" | ratio {ratio:.2f}" if isinstance(ratio, int | float) else ""
        limit = f" | limit {row['limit']}" if row.get("limit") not in (None, "") else ""
        print(f"  {row['name']}: {number} {row.get('unit', '')}{peer}{against}{limit} {row.get('note') or ''}".rstrip())
