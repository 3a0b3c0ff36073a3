"""Data files through byte-level models with random weights: what ran, and that bytes and budgets are as promised.

Usage: python benchmarks/cake/mechanics.py [--out FILE] [--reuse RUNS]      # needs $SEPTET_DATA; a minute a file

Runs ``septet test`` on RULER niah_multikey_3 and the two LongBench sets of the data folder (accuracy means nothing with
random weights) and keeps, per policy, live bytes, the attention mass kept and the KL divergence to the full cache.
``--reuse runs`` takes the newest finished runs of these names instead of running them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from septet.launch.bench import machine
from septet.launch.record import versions

FILES = {
    "ruler_random": ("ruler_random", "RULER/4096/niah_multikey_3.jsonl"),
    "longbench_random": ("longbench_random", "LongBench/passage_retrieval_zh.jsonl"),
    "longbench_random_mf": ("longbench_random", "LongBench/multifieldqa_zh.jsonl"),
}


def main() -> None:
    """Run every file and write the record."""
    parser = argparse.ArgumentParser(description="Mechanics of the data files with random weights.")
    parser.add_argument("--out", type=Path, help="default: benchmarks/cake/<date>-mechanics.json")
    parser.add_argument("--reuse", type=Path, help="folder of runs that were made before")
    options = parser.parse_args()
    root = Path(os.environ.get("SEPTET_DATA", "data")) / "long_context"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEPTET_RUNS"] = folder
        for name, (config, file) in () if options.reuse else FILES.items():
            words = [
                "test",
                "-c",
                f"configs/cake/{config}.yaml",
                "--name",
                name,
                f"--data.init_args.root={root / file}",
            ]
            subprocess.run([sys.executable, "-m", "septet", *words], check=True, stdout=subprocess.DEVNULL)
        runs = options.reuse or Path(folder)
        found = {name: summary(name, config, file, runs) for name, (config, file) in FILES.items()}
    stamp = datetime.now(UTC)
    record = {
        "benchmark": "cake mechanics",
        "date": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        "command": "python benchmarks/cake/mechanics.py" + (f" --reuse {options.reuse}" if options.reuse else ""),
        "machine": machine("cpu"),
        "versions": versions(),
        "files": found,
    }
    path = options.out or Path("benchmarks/cake") / f"{stamp:%Y-%m-%d}-mechanics.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


def summary(name: str, config: str, file: str, runs: Path) -> dict[str, Any]:
    """One file: the command, the prompts and the figures of every policy."""
    record = max(runs.glob(f"*/{name}/*/record*.json"), key=lambda path: path.stat().st_mtime)
    run = record.parent
    rows = [json.loads(line) for line in (run / "cells.jsonl").read_text().splitlines()]
    metrics = json.loads(record.read_text())["metrics"]
    labels = list(dict.fromkeys(row["policy"] for row in rows))
    keys = ("kv_bytes", "peak_bytes", "recall", "kl")
    return {
        "command": f"septet test -c configs/cake/{config}.yaml --data.init_args.root=$SEPTET_DATA/long_context/{file}",
        "prompts": len(rows) // len(labels),
        "policies": {label: {key: metrics[f"test/{label}/{key}"] for key in keys} for label in labels},
        "pictures": sorted(path.name for path in (run / "media").glob("*.png")),
    }


if __name__ == "__main__":
    main()
