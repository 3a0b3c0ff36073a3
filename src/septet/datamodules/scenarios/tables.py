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
from septet.datamodules.scenarios.costs import DEVICE, Costs, traffic_costs
from septet.datamodules.scenarios.records import (
    Record,
    canonical_block,
    canonical_key,
    from_ledger,
    newer,
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
    costs = traffic_costs() if name == "traffic_mts" else None
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
                    "model": {"name": model, **({} if costs is None else _params(costs, i, bench.group[j]))},
                    **({} if costs is None else {"criteria": _cost(costs, i, bench.group[j])}),
                    "protocol": {"table": source}, "value": float(bench.values[i, j]), "n": 1,
                    "provenance": {"source": f"{source}: {column}", "licence": "Apache-2.0"},
                })  # fmt: skip
    return found


def _cost(costs: Costs, model: int, name: str) -> dict[str, Any]:
    """Mean time per window of a whole test pass (the only latency of the traffic logs), and the time of training."""
    d = costs.sets.index(name)
    seconds, train = float(costs.seconds[model, d]), float(costs.train_s[model, d])
    return {"latency_ms_p50": 1000 * seconds, "train_s": train, "device": DEVICE}


def _params(costs: Costs, model: int, name: str) -> dict[str, Any]:
    """Parameters of a traffic model as built for a set; nothing where the log is implausible."""
    count = float(costs.params[model, costs.sets.index(name)])
    return {"params": round(count)} if np.isfinite(count) else {}


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


def ledger_records(path: str | Path) -> list[Record]:
    """Records of every finished evaluation in a run ledger; read only.

    An evaluation takes the training time of the fit with its run id (seconds times devices; 0 for fresh weights that
    nothing trained).

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
    fits = {row.get("run_id"): row for row in rows if row.get("stage") == "fit" and row.get("status") == "finished"}
    return [record for row in rows for record in from_ledger(_completed(row, fits.get(row.get("run_id"))))]


def _completed(row: dict[str, Any], fit: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row with the training time of its fit."""
    if row.get("stage") not in ("validate", "test"):
        return row
    criteria, trained = dict(row.get("criteria") or {}), None
    if fit is not None:
        cost = fit.get("cost") or {}
        wall = cost.get("total_wall_s") or cost.get("wall_s")
        trained = None if wall is None else float(wall) * (cost.get("devices") or 1)
    elif str(row.get("checkpoint") or "").startswith("none"):
        trained = 0.0
    if trained is not None:
        criteria.setdefault("train_s", trained)
    return {**row, "criteria": criteria}


def collect_records(records: str | Path | None, ledger: str | Path | None) -> list[Record]:
    """Records of a file, folder or store and of a ledger, those that :func:`gate` lets speak."""
    found = [record for _, record in read_records(records)] if records else []
    return gate(found + (ledger_records(ledger) if ledger else []))[0]


def pooled(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per canonical key in key order: ``{key, n, mean, std, record, rows, sources, column}``.

    A repeat counts once. Of two values of one observation the later evaluation of a run counts, else the smaller (as
    in merging stores). Records that are not done are left out.
    """
    seen: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        if record.get("state", "done") != "done":
            continue
        key, identity = canonical_key(record), observation_id(record)
        old = seen[key].get(identity)
        seen[key][identity] = record if old is None else _prefer(record, old)[0]
    found = []
    for key in sorted(seen):
        rows = [seen[key][i] for i in sorted(seen[key])]
        n, mean, std = pool((r.get("n", 1), r["value"], r.get("std")) for r in rows)
        sources = sorted({str(r["provenance"].get("run_id") or r["provenance"].get("source")) for r in rows})
        entry = {"key": key, "n": n, "mean": mean, "std": std, "record": rows[0], "rows": rows, "sources": sources}
        found.append({**entry, "column": column_name(rows[0])})
    return found


def _prefer(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The one of two reports of an observation that counts, and the other."""
    if newer(a, b) or newer(b, a):
        return (a, b) if newer(a, b) else (b, a)
    order = sorted((a, b), key=lambda r: (r["value"], json.dumps(r, sort_keys=True, default=str)))
    return order[0], order[1]


Quarantine = list[tuple[Record, str]]
"""Records left out, with the reason."""


def gate(records: Sequence[Record]) -> tuple[list[Record], Quarantine]:
    """Records that may speak, and those that may not with the reason, independent of their order.

    Out are keys that a store has retracted or put into quarantine (whatever source they come from), values that
    conflict within one observation, and what the plausibility gate refuses.
    """
    known = [((canonical_key(r), observation_id(r)), r) for r in records]
    known.sort(key=lambda pair: (pair[0], pair[1].get("value") or 0.0))
    barred: dict[str, str] = {}
    for (key, _), r in known:
        if r.get("state") in ("quarantined", "retracted"):
            barred[key] = max(barred.get(key, ""), str(r["state"]))
    out: Quarantine = [(r, f"{barred[key]} in a store") for (key, _), r in known if key in barred]
    counted: dict[tuple[str, str], Record] = {}
    for identity, r in known:
        if r.get("state", "done") == "done" and identity[0] not in barred:
            keep, drop = (r, None) if identity not in counted else _prefer(r, counted[identity])
            counted[identity] = dict(keep)
            if drop is not None and drop["value"] != keep["value"] and not newer(keep, drop):
                out.append((dict(drop), "another value of the same run and seed"))
    open_ = list(counted.values())
    verdict = plausibility(open_)
    out += [(r, v) for r, v in zip(open_, verdict, strict=True) if v != "ok"]
    return [r for r, v in zip(open_, verdict, strict=True) if v == "ok"], out


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


def bench_of_entries(done: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Bench:
    """A bench of pooled entries of one task and metric; ``names`` of their models where they are known already."""
    cells = list(zip(model_names(done) if names is None else names, (str(e["column"]) for e in done), strict=True))
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
    kind, when = "error" if lower else "accuracy", _dates(cells, done, columns)
    return Bench(
        "records", models, columns, group, scenario, kind, values, x, latency=latency, acceptance=acceptance, when=when
    )


def _dates(cells: Sequence[tuple[str, str]], done: Sequence[Mapping[str, Any]], columns: list[str]) -> list[str] | None:
    """Date of the latest result of each column, "" where one has none; None if no record carries a date."""
    dates: dict[str, list[str]] = {c: [] for c in columns}
    for (_, c), e in zip(cells, done, strict=True):
        dates[c] += [str(r["provenance"].get("when") or "") for r in e["rows"]]
    found = ["" if "" in dates[c] else max(dates[c]) for c in columns]
    return found if any(found) else None


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


def model_name(record: Mapping[str, Any], *, configuration: bool = False) -> str:
    """Canonical name with the variant where given, and the configuration where asked for."""
    block = canonical_block("model", record["model"])
    extra = [str(block["variant"])] if "variant" in block else []
    extra += [str(block["config_sha256"])[:12]] if configuration and "config_sha256" in block else []
    return "/".join([str(block["name"]), *extra])


def model_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name of each entry's model; one measured under several configurations in one column is named with each."""
    plain = [model_name(e["record"]) for e in entries]
    cells = Counter((m, str(e["column"])) for m, e in zip(plain, entries, strict=True))
    several = {m for (m, _), count in cells.items() if count > 1}
    if not several:
        return plain
    return [model_name(e["record"], configuration=m in several) for m, e in zip(plain, entries, strict=True)]
