"""Choose SMAP's settings on some benches, to be reported on others.

``python -m septet.lightning_modules.smap.tune --bench openstl`` measures a grid fixed beforehand on one bench and
writes ``benchmarks/smap/tune_openstl.json``; ``--choose openstl gift_eval`` reads such files and prints the setting
with the lowest mark: the mean over those benches of its regret over that of ``global_mean``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from septet.datamodules.scenarios.bench import NAMES, load_bench
from septet.datamodules.scenarios.splits import split
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.scoring import evaluate

GRID: tuple[dict[str, Any], ...] = (
    *(
        {"prior": "stack", "criterion": criterion, "sharpness": sharpness, "gate": gate, "steps": 0}
        for criterion in ("regret", "ndcg5")
        for sharpness in (1.0, 4.0, 1e9)
        for gate in (-2.0, 1.0)
    ),
    {"prior": "stack", "criterion": "regret", "sharpness": 1.0, "gate": -2.0, "steps": 30},
    {"prior": "mean", "gate": 1.0, "steps": 30},
)
_SHORT = {"gift_eval": 15, "metagl": 8}
"""Optimiser steps of trained settings on the two large benches."""


def protocol_of(bench: str) -> str:
    """Leave a data set out; the given folds for metagl."""
    return "folds" if bench == "metagl" else "lodo"


def out_of_sample(bench_name: str, options: dict[str, Any], seed: int = 0) -> dict[str, float]:
    """Metrics of one setting, one member, one seed."""
    from septet.lightning_modules.smap.run import fit_predict

    bench, protocol = load_bench(bench_name), protocol_of(bench_name)
    if options["steps"]:
        options = {**options, "steps": min(options["steps"], _SHORT.get(bench_name, options["steps"]))}
    found = np.full(bench.values.shape, np.nan)
    for part in split(bench, protocol):
        found[:, part.test] = fit_predict(bench, part, seed=seed, ensemble=1, **options)
    return evaluate(bench, found, protocol)


def measure(bench_name: str) -> dict[str, Any]:
    """Every setting of the grid on one bench, and ``global_mean`` as the unit."""
    bench, protocol = load_bench(bench_name), protocol_of(bench_name)
    found = np.full(bench.values.shape, np.nan)
    for part in split(bench, protocol):
        found[:, part.test] = baselines.predict("global_mean", bench, part.train, part.test)
    tried = []
    for options in GRID:
        start = time.perf_counter()
        metrics = out_of_sample(bench_name, options)
        row = {name: metrics[name] for name in ("regret1", "ndcg5", "tau")}
        tried.append({"options": options, **row, "s": round(time.perf_counter() - start, 1)})
        print(json.dumps(tried[-1]), flush=True)
    return {"bench": bench_name, "global_mean": evaluate(bench, found, protocol)["regret1"], "tried": tried}


def choose(files: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[float]]:
    """The setting of the lowest mark (ties: the earlier one), and all marks in the order of the grid."""
    marks = [
        float(np.mean([f["tried"][i]["regret1"] / f["global_mean"] for f in files]))
        for i in range(len(files[0]["tried"]))
    ]
    return files[0]["tried"][int(np.argmin(marks))]["options"], marks


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a bench, or choose over measured ones."""
    parser = argparse.ArgumentParser(prog="python -m septet.lightning_modules.smap.tune")
    parser.add_argument("--bench", choices=NAMES)
    parser.add_argument("--choose", choices=NAMES, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/smap"))
    given = parser.parse_args(argv)
    if (given.bench is None) == (given.choose is None):
        parser.error("give --bench or --choose")
    if given.bench:
        import torch

        torch.set_num_threads(1)
        target = given.folder / f"tune_{given.bench}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(measure(given.bench), indent=1) + "\n")
    else:
        files = [json.loads((given.folder / f"tune_{name}.json").read_text()) for name in given.choose]
        print(json.dumps(choose(files)[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
