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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import NAMES, Bench, load_bench
from septet.datamodules.scenarios.splits import split
from septet.lightning_modules.smap import baselines, cold
from septet.lightning_modules.smap.probing import draw
from septet.lightning_modules.smap.scoring import Metrics, bootstrap, group_mean, owned_metrics
from septet.lightning_modules.smap.tune import choose, file_name

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
Line = tuple[str, int, dict[str, Any]]
_LGBM_CELLS = 2_000
"""Tables with more cells take LightGBM many minutes a fold; its line is left out."""


def _one(task: tuple[str, str, int, str, int, int, dict[str, Any]]) -> tuple[list[int], Array]:
    """Scores of one fold by a rule or SMAP; of a cold one NaN for the others than the cold models."""
    bench_name, protocol, fold, name, seed, count, options = task
    bench = load_bench(bench_name)
    part = split(bench, protocol)[fold]
    probes = {j: draw(bench, part.train, j, count, seed) for j in part.test} if count else {}
    if name in baselines.PROBE_NAMES:
        columns = [baselines.probe_predict(name, bench, part.train, j, models) for j, models in probes.items()]
        return part.test, np.column_stack(columns)
    if not name.startswith("SMAP") and not part.cold:
        return part.test, baselines.predict(name, bench, part.train, part.test, **options)
    scores = np.full(bench.values.shape, np.nan)
    if not name.startswith("SMAP"):
        scores[part.cold] = cold.predict(name, bench, part.cold, **options)
        return part.test, scores
    import torch

    torch.set_num_threads(1)
    from septet.lightning_modules.smap.run import fit_predict

    found = fit_predict(bench, part, seed=seed, probes=probes, **options)
    if not part.cold:
        return part.test, found
    scores[part.cold] = found[part.cold]
    return part.test, scores


def _rows(bench: Bench, protocol: str, parts: Sequence[tuple[list[int], Array]]) -> list[tuple[str, Metrics]]:
    """Metrics of all columns; cold models are ranked among those of their fold, other columns occur once."""
    if protocol == "cold":
        folds = [dict(zip(part, scores.T, strict=True)) for part, scores in parts]
        return [row for fold in folds for row in owned_metrics(bench, fold, protocol)]
    predictions = np.full(bench.values.shape, np.nan)
    for columns, scores in parts:
        predictions[:, columns] = scores
    return owned_metrics(bench, predictions, protocol)


def _lines(bench: Bench, protocol: str, seeds: int, probes: int, options: dict[str, Any], rules: bool) -> list[Line]:
    """(name, seed, options) of everything to measure."""
    lines: list[Line] = [("SMAP", seed, options) for seed in range(seeds)]
    if not rules:
        return lines
    lines.append(("SMAP without recall", 0, {**options, "gate": -40.0, "steps": 0, "ensemble": 1}))
    if probes:
        return [*lines, *((name, seed, {}) for name in baselines.PROBE_NAMES for seed in range(seeds))]
    if protocol == "cold":
        return [*lines, *((name, 0, {}) for name in cold.names_here())]
    present = importlib.util.find_spec("lightgbm") is not None and bench.values.size <= _LGBM_CELLS
    return [*lines, *((n, 0, chosen) for n, chosen in RULES if present or not n.startswith("lgbm"))]


def _means(runs: Sequence[dict[str, Any]], function: Callable[..., Any]) -> dict[str, float]:
    names = [k for k in (runs[0] if runs else ()) if not k.endswith("_ci95")]
    return {k: float(function([run[k] for run in runs])) for k in names}


def study(
    bench_name: str,
    protocol: str,
    seeds: int,
    jobs: int,
    options: dict[str, Any],
    rules: bool = True,
    probes: int = 0,
) -> dict[str, Any]:
    """Metrics of each rule and of SMAP over seeds.

    Args:
        bench_name: of :func:`load_bench`.
        protocol: lodo, loso, folds, or cold (the bench's own folds of models, metrics over cold models only).
        seeds: of SMAP, and of the draws of probes.
        jobs: processes.
        options: of SMAP.
        rules: measure the plain rules as well.
        probes: results of each test column that are revealed; the plain rules are then those that use them.
    """
    bench = load_bench(bench_name)
    folds = range(len(split(bench, protocol)))
    lines = _lines(bench, protocol, seeds, probes, options, rules)
    tasks = [(bench_name, protocol, f, name, seed, probes, chosen) for name, seed, chosen in lines for f in folds]
    start = time.perf_counter()
    if jobs == 1:
        parts = [_one(task) for task in tasks]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
            parts = list(workers.map(_one, tasks))
    runs: dict[str, list[dict[str, Any]]] = {"SMAP": []}
    for i, (name, _, chosen) in enumerate(lines):
        rows = _rows(bench, protocol, parts[i * len(folds) : (i + 1) * len(folds)])
        shown = {} if name.startswith("SMAP") else chosen
        bounds = {f"{metric}_ci95": bootstrap(rows, metric) for metric in ("regret1", "tau")}
        label = ",".join([name, *(f"{k}={v}" for k, v in shown.items())])
        runs.setdefault(label, []).append({**group_mean(rows), **bounds})
    return {
        "bench": bench_name, "protocol": protocol, "seeds": seeds, "probes": probes, "options": options,
        "smap_mean": _means(runs["SMAP"], np.mean), "smap_std": _means(runs["SMAP"], np.std),
        "methods": {k: v if k == "SMAP" else {**v[0], **_means(v, np.mean)} for k, v in runs.items()},
        "wall_s": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m septet.lightning_modules.smap.study")
    parser.add_argument("--bench", choices=NAMES, required=True)
    parser.add_argument("--protocol", choices=("lodo", "loso", "folds", "cold"), default="lodo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--options", default="{}", help="JSON arguments of SMAP; they win over --tuned-on")
    parser.add_argument(
        "--tuned-on", choices=NAMES, nargs="*", help="take the options that tune chose on these benches"
    )
    parser.add_argument("--encoders", nargs="+", help="SMAP with each of these encoders, without the plain rules")
    parser.add_argument("--probes", type=int, default=0, help="results of each test column that are revealed")
    parser.add_argument("--no-rules", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    options = json.loads(given.options)
    if given.tuned_on:
        if given.bench in given.tuned_on:
            raise SystemExit(f"{given.bench} is reported: tune on other benches")
        folder = given.out.parent if given.out else Path("benchmarks/smap")
        files = [json.loads((folder / file_name(name, given.probes)).read_text()) for name in given.tuned_on]
        options = {**choose(files)[0], **options}
    place = {
        "tuned_on": given.tuned_on, "machine": platform.machine(), "cpus": os.cpu_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    what = (given.bench, given.protocol, given.seeds, given.jobs)
    found: dict[str, Any]
    if given.encoders:
        found = {name: study(*what, {**options, "encoder": name}, rules=False) for name in given.encoders}
        for row in found.values():
            _show(row)
    else:
        found = study(*what, options, not given.no_rules, given.probes)
        _show(found)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**found, **place, "load": list(os.getloadavg())}, indent=1) + "\n")
    return 0


def _show(found: dict[str, Any]) -> None:
    """Print one line per method."""
    rows = {"SMAP": found["smap_mean"], **{k: v for k, v in found["methods"].items() if k != "SMAP"}}
    shown = ("regret1", "gregret1", "ndcg5", "tau", "auc1", "mrr1", "ndcg1")
    for name, row in rows.items():
        line = " ".join(f"{k} {row[k]:.3f}" for k in shown if k in row)
        print(f"{found['bench']}/{found['protocol']} {name:<32} {line}")
    print(f"{found['options']} std {found['smap_std'].get('regret1', 0.0):.3f} {found['wall_s']} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
