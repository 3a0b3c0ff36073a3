"""Choose SMAP's settings on some benches, to be reported on others.

``python -m septet.lightning_modules.smap.tune --bench openstl`` measures a grid fixed beforehand on one bench and
writes ``benchmarks/smap/tune_openstl.json`` (settings already on file are kept); ``--choose openstl gift_eval`` reads
such files and prints the setting with the lowest mark: the mean over those benches of its regret over that of
``global_mean``, and all marks. With ``--probes 5`` both are of settings without gradient steps after five results of
each test column, the mean over three draws (``tune_probes5_openstl.json``).
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
from septet.lightning_modules.smap.probing import draw
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
    *({"prior": "stack", "criterion": "regret", "sharpness": 0.0, "gate": gate, "steps": 0} for gate in (-2.0, 1.0)),
)
"""Equal weights of all rules (sharpness 0) were added last; ties keep the earlier setting."""
_SHORT = {"gift_eval": 15, "metagl": 8}
"""Optimiser steps of trained settings on the two large benches."""


def protocol_of(bench: str) -> str:
    """Leave a data set out; the given folds for metagl."""
    return "folds" if bench == "metagl" else "lodo"


def file_name(bench: str, probes: int = 0) -> str:
    """Where the grid's measurements of a bench lie."""
    return f"tune_{f'probes{probes}_' if probes else ''}{bench}.json"


def out_of_sample(bench_name: str, options: dict[str, Any], seed: int = 0, probes: int = 0) -> dict[str, float]:
    """Metrics of one setting, one member, one seed, after so many probes per test column."""
    from septet.lightning_modules.smap.run import fit_predict

    bench, protocol = load_bench(bench_name), protocol_of(bench_name)
    if options["steps"]:
        options = {**options, "steps": min(options["steps"], _SHORT.get(bench_name, options["steps"]))}
    found = np.full(bench.values.shape, np.nan)
    for part in split(bench, protocol):
        drawn = {j: draw(bench, part.train, j, probes, seed) for j in part.test} if probes else None
        found[:, part.test] = fit_predict(bench, part, seed=seed, probes=drawn, ensemble=1, **options)
    return evaluate(bench, found, protocol)


def measure(bench_name: str, known: Sequence[dict[str, Any]] = (), probes: int = 0) -> dict[str, Any]:
    """Every setting of the grid on one bench, and ``global_mean`` as the unit.

    Args:
        bench_name: of :func:`load_bench`.
        known: rows measured before; their settings are not measured again.
        probes: results of each test column that are revealed; trained settings are then left out.
    """
    bench, protocol = load_bench(bench_name), protocol_of(bench_name)
    found = np.full(bench.values.shape, np.nan)
    for part in split(bench, protocol):
        found[:, part.test] = baselines.predict("global_mean", bench, part.train, part.test)
    tried = []
    for options in GRID:
        if probes and (options["steps"] or options["prior"] == "mean"):
            continue
        if (row := next((row for row in known if row["options"] == options), None)) is not None:
            tried.append(row)
            continue
        start = time.perf_counter()
        runs = [out_of_sample(bench_name, options, seed, probes) for seed in range(3 if probes else 1)]
        shown = {name: float(np.mean([run[name] for run in runs])) for name in ("regret1", "ndcg5", "tau")}
        tried.append({"options": options, **shown, "s": round(time.perf_counter() - start, 1)})
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
    parser.add_argument("--probes", type=int, default=0, help="results of each test column that are revealed")
    given = parser.parse_args(argv)
    if (given.bench is None) == (given.choose is None):
        parser.error("give --bench or --choose")
    if given.bench:
        import torch

        torch.set_num_threads(1)
        target = given.folder / file_name(given.bench, given.probes)
        target.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(target.read_text())["tried"] if target.is_file() else []
        target.write_text(json.dumps(measure(given.bench, known, given.probes), indent=1) + "\n")
    else:
        files = [json.loads((given.folder / file_name(name, given.probes)).read_text()) for name in given.choose]
        chosen, marks = choose(files)
        print(json.dumps(chosen))
        for row, mark in zip(files[0]["tried"], marks, strict=True):
            print(f"{mark:.4f} {json.dumps(row['options'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
