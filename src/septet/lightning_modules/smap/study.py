"""Out-of-sample study of a bench: SMAP beside every plain rule, in one table.

``python -m septet.lightning_modules.smap.study --bench traffic_mts --protocol lodo --seeds 5 --jobs 2 --out FILE.json``
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import NAMES, load_bench
from septet.datamodules.scenarios.splits import split
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.scoring import bootstrap, group_mean, owned_metrics
from septet.lightning_modules.smap.tune import choose

Array = NDArray[np.float64]
RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("global_best", {}),
    ("global_mean", {}),
    ("scenario_best", {}),
    ("knn_meta", {}),
    ("knn_shrunk", {}),
    ("knn_shrunk", {"k": 5, "c": 1.0, "value": "loss"}),
    ("mf_side", {}),
    ("lgbm_reg", {}),
    ("lgbm_rank", {}),
)
_LGBM_CELLS = 2_000
"""Tables with more cells take LightGBM many minutes a fold; its line is left out."""


def _one(task: tuple[str, str, int, str, int, dict[str, Any]]) -> tuple[list[int], Array]:
    """Scores of one fold: a rule (seed < 0) or SMAP."""
    bench_name, protocol, fold, name, seed, options = task
    bench = load_bench(bench_name)
    part = split(bench, protocol)[fold]
    if seed < 0:
        return part.test, baselines.predict(name, bench, part.train, part.test, **options)
    import torch

    torch.set_num_threads(1)
    from septet.lightning_modules.smap.run import fit_predict

    return part.test, fit_predict(bench, part, seed=seed, **options)


def study(
    bench_name: str, protocol: str, seeds: int, jobs: int, options: dict[str, Any], rules: bool = True
) -> dict[str, Any]:
    """Metrics of each rule and of SMAP over seeds.

    Args:
        bench_name: of :func:`load_bench`.
        protocol: lodo, loso or folds.
        seeds: of SMAP.
        jobs: processes.
        options: of SMAP.
        rules: measure the plain rules as well.
    """
    bench = load_bench(bench_name)
    folds = range(len(split(bench, protocol)))
    lines: list[tuple[str, int, dict[str, Any]]] = [("SMAP", s, options) for s in range(seeds)]
    if rules:
        lines.append(("SMAP without recall", 0, {**options, "gate": -40.0, "steps": 0, "ensemble": 1}))
        present = importlib.util.find_spec("lightgbm") is not None and bench.values.size <= _LGBM_CELLS
        lines += [(name, -1, chosen) for name, chosen in RULES if present or not name.startswith("lgbm")]
    tasks = [(bench_name, protocol, f, name, seed, chosen) for name, seed, chosen in lines for f in folds]
    start = time.perf_counter()
    if jobs == 1:
        parts = [_one(task) for task in tasks]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
            parts = list(workers.map(_one, tasks))
    found: dict[str, Any] = {"SMAP": []}
    for i, (name, _, chosen) in enumerate(lines):
        predictions = np.full(bench.values.shape, np.nan)
        for columns, scores in parts[i * len(folds) : (i + 1) * len(folds)]:
            predictions[:, columns] = scores
        rows = owned_metrics(bench, predictions, protocol)
        metrics: dict[str, Any] = {**group_mean(rows), "regret1_ci95": bootstrap(rows, "regret1")}
        if name == "SMAP":
            found["SMAP"].append(metrics)
        else:
            shown = {} if name.startswith("SMAP") else chosen
            found[",".join([name, *(f"{k}={v}" for k, v in shown.items())])] = metrics
    own = found["SMAP"]
    mean = {k: float(np.mean([row[k] for row in own])) for k in (own[0] if own else ()) if k != "regret1_ci95"}
    spread = {k: float(np.std([row[k] for row in own])) for k in mean}
    return {
        "bench": bench_name, "protocol": protocol, "seeds": seeds, "options": options,
        "smap_mean": mean, "smap_std": spread, "methods": found, "wall_s": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m septet.lightning_modules.smap.study")
    parser.add_argument("--bench", choices=NAMES, required=True)
    parser.add_argument("--protocol", choices=("lodo", "loso", "folds"), default="lodo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--options", default="{}", help="JSON arguments of SMAP")
    parser.add_argument(
        "--tuned-on", choices=NAMES, nargs="*", help="take the options that tune chose on these benches"
    )
    parser.add_argument("--no-rules", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    options = json.loads(given.options)
    if given.tuned_on:
        if given.bench in given.tuned_on:
            raise SystemExit(f"{given.bench} is reported: tune on other benches")
        folder = given.out.parent if given.out else Path("benchmarks/smap")
        files = [json.loads((folder / f"tune_{name}.json").read_text()) for name in given.tuned_on]
        options = {**options, **choose(files)[0]}
    found = study(given.bench, given.protocol, given.seeds, given.jobs, options, not given.no_rules)
    found["tuned_on"] = given.tuned_on
    found |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()),
    }
    rows = {"SMAP": found["smap_mean"], **{k: v for k, v in found["methods"].items() if k != "SMAP"}}
    for name, row in rows.items():
        shown = ("regret1", "gregret1", "ndcg5", "tau", "auc1", "mrr1", "ndcg1")
        print(f"{given.bench}/{given.protocol} {name:<32} " + " ".join(f"{k} {row[k]:.3f}" for k in shown if k in row))
    print(f"{given.options} std {found['smap_std'].get('regret1', 0.0):.3f} {found['wall_s']} s", flush=True)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
