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

TABLE_TASKS = {
    "traffic_speed": ("traffic_mts", "mae", "torch_mts"),
    "traffic_flow": ("traffic_mts", "mae", "torch_mts"),
    "spatiotemporal_prediction": ("openstl", "mse", "openstl"),
    "forecasting": ("gift_eval", "mase", "gift_eval, self-reported"),
}
"""Task -> bench, metric and source of the shipped tables."""


def table_records(task: str) -> list[Record]:
    """Records of the shipped table of a task; [] if there is none."""
    if task not in TABLE_TASKS:
        return []
    name, metric, source = TABLE_TASKS[task]
    bench = load_bench(name)
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
                    "protocol": {"table": source}, "value": float(bench.values[i, j]), "n": 1,
                    "provenance": {"source": f"{source}: {column}", "licence": "Apache-2.0"},
                })  # fmt: skip
    return found


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
    blocks = [canonical_block(b, record.get(b)) for b in ("dataset", "scenario", "protocol")]
    return json.dumps(blocks, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def bench_of_records(records: Sequence[Record], task: str | None = None, metric: str | None = None) -> Bench:
    """A bench of one task and metric: models x (data set, scenario, protocol).

    Args:
        records: scenario records.
        task: canonical name; None: the task and metric with most records.
        metric: likewise.

    Raises:
        ValueError: no such record.
    """
    done = [e for e in pooled(records) if task is None or _field(e, "task") == task]
    done = [e for e in done if metric is None or _field(e, "metric") == metric]
    if not done:
        raise ValueError(f"no record of task {task!r} and metric {metric!r} among {len(records)}")
    chosen = min(Counter((_field(e, "task"), _field(e, "metric")) for e in done).items(), key=lambda p: (-p[1], p[0]))[
        0
    ]
    done = [e for e in done if (_field(e, "task"), _field(e, "metric")) == chosen]
    columns = sorted({column_name(e["record"]) for e in done})
    models = sorted({model_name(e["record"]) for e in done})
    values, features = np.full((len(models), len(columns)), np.nan), [{} for _ in columns]  # type: ignore[var-annotated]
    group, scenario = [""] * len(columns), [""] * len(columns)
    lower = done[0]["record"]["scenario"]["direction"] == "min"
    for e in done:
        i, j = models.index(model_name(e["record"])), columns.index(column_name(e["record"]))
        values[i, j] = max(e["mean"], 1e-12) if lower else 1 - e["mean"]
        dataset, place = e["record"]["dataset"], e["record"]["scenario"]
        group[j] = str(dataset.get("group") or dataset["name"]).casefold()
        scenario[j] = " ".join(str(place.get(k) or "") for k in ("task", "horizon", "domain")).strip()
        features[j] = {**features[j], **{k: float(v) for k, v in (dataset.get("features") or {}).items()}}
    names = sorted({k for f in features for k in f})
    x = np.array([[f.get(k, np.nan) for k in names] for f in features]).reshape(len(columns), len(names))
    x = np.where(np.isfinite(x), x, np.nan_to_num(np.nanmean(x, 0)) if len(names) else 0.0)
    return Bench("records", models, columns, group, scenario, "error" if lower else "accuracy", values, x)


def _field(entry: Mapping[str, Any], name: str) -> Any:
    return canonical_block("scenario", entry["record"]["scenario"]).get(name)


def model_name(record: Mapping[str, Any]) -> str:
    """Canonical name, with variant and configuration where given."""
    block = canonical_block("model", record["model"])
    extra = [str(block[k])[:12] for k in ("variant", "config_sha256") if k in block]
    return "/".join([str(block["name"]), *extra])
