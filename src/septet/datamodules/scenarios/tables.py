"""Records from the shipped tables and from the ledger, and a bench from records. No torch."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from septet.datamodules.scenarios.bench import Bench, load_bench
from septet.datamodules.scenarios.canonical import block_text
from septet.datamodules.scenarios.costs import DEVICE
from septet.datamodules.scenarios.records import (
    Record,
    canonical_block,
    canonical_key,
    from_ledger,
    observation_id,
    plausibility,
    pool,
    read_records,
)
from septet.datamodules.scenarios.unified import unified_records, unified_tasks

TABLE_TASKS = {
    "traffic_speed": ("traffic_mts", "mae", "torch_mts"),
    "traffic_flow": ("traffic_mts", "mae", "torch_mts"),
    "spatiotemporal_prediction": ("openstl", "mse", "openstl"),
    "forecasting": ("gift_eval", "mase", "gift_eval, self-reported"),
}
"""Task -> bench, metric and source of the shipped tables."""


def table_records(task: str) -> list[Record]:
    """Records of the shipped tables of a task; [] if there is none."""
    if task not in TABLE_TASKS:
        return unified_records(task)
    name, metric, source = TABLE_TASKS[task]
    bench = load_bench(name)
    latency = bench.latency
    found = []
    for j, column in enumerate(bench.columns):
        scenario, dataset = _place(name, bench, j)
        if scenario["task"] != task:
            continue
        features = {f"x{i}": float(v) for i, v in enumerate(bench.column_features[j])}
        for i, model in enumerate(bench.models):
            if np.isfinite(bench.values[i, j]):
                found.append({
                    "scenario": {**scenario, "metric": metric, "direction": "min"},
                    "dataset": {"name": dataset, "group": bench.group[j], "features": features},
                    "model": {"name": model, **_params(name, bench, i)},
                    **({} if latency is None else {"criteria": _cost(float(latency[i, j]))}),
                    "protocol": {"table": source}, "value": float(bench.values[i, j]), "n": 1,
                    "provenance": {"source": f"{source}: {column}", "licence": "Apache-2.0"},
                })  # fmt: skip
    return found


def _cost(milliseconds: float) -> dict[str, Any]:
    """Mean time per window of a whole test pass, the only latency that the traffic logs carry."""
    return {"latency_ms_p50": milliseconds, "device": DEVICE}


def table_tasks() -> list[str]:
    """Tasks of all shipped tables."""
    return [*TABLE_TASKS, *(name for name in unified_tasks() if name not in TABLE_TASKS)]


def _place(name: str, bench: Bench, j: int) -> tuple[dict[str, Any], str]:
    column, scenario = bench.columns[j], bench.scenario[j]
    if name == "traffic_mts":
        kind, minutes = scenario.split("_")
        return {"task": f"traffic_{kind}", "horizon": minutes.replace("min", " min")}, column.split("@")[0]
    if name == "openstl":
        return {"task": "spatiotemporal_prediction", "domain": scenario}, column
    return {"task": "forecasting", "domain": scenario, "horizon": column.rsplit("/", 1)[-1]}, column


def _params(name: str, bench: Bench, i: int) -> dict[str, Any]:
    """Parameters of a traffic model (the feature is their logarithm)."""
    if name != "traffic_mts" or bench.model_features is None:
        return {}
    return {"params": round(float(np.exp(bench.model_features[i, 0])))}


def ledger_records(path: str | Path) -> list[Record]:
    """Records of every finished evaluation in a run ledger; read only.

    Raises:
        ValueError: the file is no ledger.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    if path.is_file():
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
                rows = [json.loads(t) for (t,) in db.execute("SELECT record FROM runs ORDER BY finished, run_id")]
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ValueError(f"--ledger {path} is not a run ledger: {error}") from error
    folder = path.with_suffix(".d")
    rows += [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    return [record for row in rows for record in from_ledger(row)]


def collect_records(records: str | Path | None, ledger: str | Path | None) -> list[Record]:
    """Records of a file or folder and of a ledger."""
    found = [record for _, record in read_records(records)] if records else []
    return found + (ledger_records(ledger) if ledger else [])


def pooled(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per canonical key in key order: ``{key, n, mean, std, record, sources}``; a repeat counts once.

    Of two values of one observation the later evaluation counts.
    """
    seen: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        if record.get("state", "done") != "done":
            continue
        key, identity = canonical_key(record), observation_id(record)
        old = seen[key].get(identity)
        if old is None or _order(record) > _order(old):
            seen[key][identity] = record
    found = []
    for key in sorted(seen):
        rows = [seen[key][i] for i in sorted(seen[key])]
        n, mean, std = pool((r.get("n", 1), r["value"], r.get("std")) for r in rows)
        sources = sorted({str(r["provenance"].get("run_id") or r["provenance"].get("source")) for r in rows})
        found.append(
            {"key": key, "n": n, "mean": mean, "std": std, "record": rows[0], "rows": rows, "sources": sources}
        )
    return found


def _order(record: Mapping[str, Any]) -> tuple[str, str]:
    return str(record["provenance"].get("when") or ""), json.dumps(record, sort_keys=True, default=str)


def gate(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Records that pass the plausibility gate, and how many did not."""
    ordered = sorted(records, key=lambda r: (canonical_key(r), observation_id(r)))
    verdict = plausibility(ordered)
    kept = [r for r, v in zip(ordered, verdict, strict=True) if v == "ok"]
    return kept, len(ordered) - len(kept)


def column_name(record: Mapping[str, Any]) -> str:
    """Scenario, data set and protocol of a record as one text: a column of a bench."""
    return block_text(record, "dataset", "scenario", "protocol")


def bench_of_records(records: Sequence[Record], task: str | None = None, metric: str | None = None) -> Bench:
    """A bench of one task and metric: models x (data set, scenario, protocol).

    Args:
        records: scenario records.
        task: canonical name; None: the task and metric with most records.
        metric: likewise.

    Raises:
        ValueError: no such record.
    """
    named = [(_place_of(e), e) for e in pooled(records)]
    named = [(p, e) for p, e in named if task in (None, p[0]) and metric in (None, p[1])]
    if not named:
        raise ValueError(f"no record of task {task!r} and metric {metric!r} among {len(records)}")
    chosen = min(Counter(p for p, _ in named).items(), key=lambda p: (-p[1], p[0]))[0]
    return bench_of_entries([e for p, e in named if p == chosen])


def bench_of_entries(done: Sequence[Mapping[str, Any]]) -> Bench:
    """A bench of pooled entries of one task and metric."""
    cells = [(model_name(e["record"]), column_name(e["record"])) for e in done]
    models, columns = sorted({m for m, _ in cells}), sorted({c for _, c in cells})
    row, place_of = {m: i for i, m in enumerate(models)}, {c: j for j, c in enumerate(columns)}
    values, features = np.full((len(models), len(columns)), np.nan), [{} for _ in columns]  # type: ignore[var-annotated]
    group, scenario = [""] * len(columns), [""] * len(columns)
    lower = done[0]["record"]["scenario"]["direction"] == "min"
    for (m, c), e in zip(cells, done, strict=True):
        i, j = row[m], place_of[c]
        values[i, j] = max(e["mean"], 1e-12) if lower else 1 - e["mean"] / (100 if is_percent(e["record"]) else 1)
        dataset, place = e["record"]["dataset"], e["record"]["scenario"]
        group[j] = str(dataset.get("group") or dataset["name"]).casefold()
        scenario[j] = " ".join(str(place.get(k) or "") for k in ("task", "horizon", "domain")).strip()
        features[j].update(dataset.get("features") or {})
    names = sorted({k for f in features for k in f})
    x = np.array([[float(f.get(k, np.nan)) for k in names] for f in features]).reshape(len(columns), len(names))
    x = np.where(np.isfinite(x), x, np.nan_to_num(np.nanmean(x, 0)) if len(names) else 0.0)
    latency, acceptance = _side(done, cells, row, place_of)
    kind = "error" if lower else "accuracy"
    return Bench("records", models, columns, group, scenario, kind, values, x, latency=latency, acceptance=acceptance)


def _side(
    done: Sequence[Mapping[str, Any]], cells: Sequence[tuple[str, str]], row: dict[str, int], place: dict[str, int]
) -> tuple[Any, Any]:
    """Median latency ``(M, C)`` and log(1 + stars) ``(M,)`` where records carry them, else None."""
    latency, stars = np.full((len(row), len(place)), np.nan), np.full(len(row), np.nan)
    for (m, c), e in zip(cells, done, strict=True):
        own = [r.get("criteria") or {} for r in e["rows"]]
        times = [t for o in own if (t := o.get("latency_ms_p50", o.get("latency_ms_p95")))]
        liked = [s for r in e["rows"] if (s := (r.get("acceptance") or {}).get("stars")) is not None]
        if times:
            latency[row[m], place[c]] = float(np.median(times))
        if liked:
            stars[row[m]] = np.log1p(float(np.median(liked)))
    return (latency if np.isfinite(latency).any() else None, stars if np.isfinite(stars).any() else None)


def is_percent(record: Mapping[str, Any]) -> bool:
    """Whether a record's value is a percentage."""
    return str(record["scenario"].get("unit") or "").casefold() == "percent"


def _place_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    block = canonical_block("scenario", entry["record"]["scenario"])
    return str(block.get("task")), str(block.get("metric"))


def model_name(record: Mapping[str, Any]) -> str:
    """Canonical name, with variant and configuration where given."""
    block = canonical_block("model", record["model"])
    extra = [str(block["variant"])] if "variant" in block else []
    extra += [str(block["config_sha256"])[:12]] if "config_sha256" in block else []
    return "/".join([str(block["name"]), *extra])
