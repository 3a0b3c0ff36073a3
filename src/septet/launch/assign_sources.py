"""The records that ``septet assign`` chooses from: files, stores, the ledger of runs, and the shipped tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.records import canonical_block, read_records
from septet.datamodules.scenarios.tables import Quarantine, gate, ledger_records, table_records, table_tasks
from septet.launch import assign_then
from septet.launch.errors import UsageError, did_you_mean
from septet.lightning_modules.smap.choose import Request

Record = dict[str, Any]
Named = list[tuple[dict[str, Any], Record]]


def candidates(options: argparse.Namespace, request: Request) -> tuple[list[Record], Quarantine]:
    """Plausible records that equal the scenario's fields, and those put aside with the reason."""
    scenario = request.scenario
    named = _of_metric(_of_task(_all(options, scenario["task"]), scenario, options), scenario)
    for name in ("horizon", "domain", "modality"):
        values = {str(p[name]) for p, _ in named if p.get(name) is not None}
        if name in scenario and str(scenario[name]) not in values:
            raise UsageError(f"no record with {name} {scenario[name]!r}{did_you_mean(str(scenario[name]), values)}")
    kept, quarantine = gate([r for p, r in named if all(p.get(k) == v for k, v in scenario.items())])
    _check_names(kept, request)
    return kept, quarantine


def _all(options: argparse.Namespace, task: str) -> list[Record]:
    records = [record for path in options.records for _, record in read_records(path)]
    if options.ledger not in (None, "none") and not Path(options.ledger).is_file():
        raise UsageError(f"--ledger {options.ledger}: no such file (or none)")
    if options.ledger != "none":
        records += ledger_records(assign_then.ledger_path(options))
    return records + (table_records(task) if options.tables == "auto" else [])


def _of_task(records: Iterable[Record], scenario: Mapping[str, Any], options: argparse.Namespace) -> Named:
    named = [(canonical_block("scenario", r["scenario"]), r) for r in records]
    tasks = {str(p.get("task")) for p, _ in named}
    if scenario["task"] in tasks:
        return [(p, r) for p, r in named if p.get("task") == scenario["task"]]
    ledger = assign_then.ledger_path(options)
    empty = f"the ledger {ledger} holds no finished test" if ledger.is_file() else f"there is no ledger {ledger} yet"
    said = "" if options.ledger == "none" or any("run_id" in r["provenance"] for _, r in named) else f" ({empty})"
    if options.tables == "none" and not tasks:
        raise UsageError(f"no records to choose from{said}: run septet test, give --records, or drop --tables none")
    tasks |= set(table_tasks()) if options.tables == "auto" else set()
    raise UsageError(f"unknown task {scenario['task']!r}{said}{did_you_mean(scenario['task'], tasks)}")


def _of_metric(named: Named, scenario: Mapping[str, Any]) -> Named:
    metrics = {str(p.get("metric")) for p, _ in named}
    metric, wanted = scenario["metric"], scenario.get("direction")
    if metric not in metrics:
        raise UsageError(f"unknown metric {metric!r} of task {scenario['task']!r}{did_you_mean(metric, metrics)}")
    named = [(p, r) for p, r in named if p.get("metric") == metric]
    directions = {p["direction"] for p, _ in named}
    if len(directions) > 1 and wanted is None:
        raise UsageError(f"metric {metric!r} is recorded with both directions; give --direction")
    if wanted is not None and wanted not in directions:
        raise UsageError(
            f"contradictory: --direction {wanted}, but the records of {metric!r} say {min(map(str, directions))}"
        )
    return named


def _check_names(records: list[Record], request: Request) -> None:
    """Names of --models and --datasets that no record has are a mistake, not a question without an answer."""
    models: set[str] = set()
    datasets: set[str] = set()
    for r in records:
        block = canonical_block("model", r["model"])
        parts = [str(block[k]) for k in ("name", "variant") if k in block]
        models |= {parts[0], "/".join(parts), "/".join([*parts, str(block.get("config_sha256", ""))[:12]]).rstrip("/")}
        datasets.add(str(canonical_block("dataset", r["dataset"])["name"]))
    for kind, given, known in (("model", request.models, models), ("dataset", request.datasets, datasets)):
        for name in given:
            if canonical_block(kind, {"name": name})["name"] not in known:
                raise UsageError(f"--{kind}s: no record of {name!r}{did_you_mean(name.casefold(), known)}")
