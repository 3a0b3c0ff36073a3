"""``septet assign``: which model and data set for a scenario, over records, tables and the run ledger."""

from __future__ import annotations

import argparse
import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.records import METRIC_DIRECTION, canonical_block, read_records
from septet.datamodules.scenarios.tables import gate, ledger_records, table_records, table_tasks
from septet.launch import assign_then
from septet.launch.errors import UsageError, did_you_mean
from septet.lightning_modules.smap.baselines import NAMES
from septet.lightning_modules.smap.choose import Request, choose

CODES = {"ok": 0, "infeasible": 3, "abstain": 4}
FIELDS = ("task", "horizon", "domain", "modality")


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="septet assign", description=__doc__, allow_abbrev=False)
    p.add_argument("--scenario", type=Path, help="YAML file of scenario fields and limits")
    for name in FIELDS:
        p.add_argument(f"--{name}")
    p.add_argument("--metric", help="required, here or in the scenario file")
    p.add_argument("--direction", choices=("min", "max"))
    p.add_argument("--records", action="append", default=[], help="JSON Lines file or folder; repeatable")
    p.add_argument("--ledger", default=None, help="ledger of runs, or none (default runs/ledger.sqlite)")
    p.add_argument("--tables", choices=("auto", "none"), default="auto")
    p.add_argument("--datasets", default="auto")
    p.add_argument("--models", default="")
    p.add_argument("--max-latency-ms", type=float)
    p.add_argument("--max-params", type=float)
    p.add_argument("--max-memory-gb", type=float)
    p.add_argument("--licence", choices=("any", "permissive"), default=None)
    p.add_argument("--device", default="")
    p.add_argument("--scorer", choices=(*NAMES, "smap"), default="knn_shrunk")
    p.add_argument("--weights", default="accuracy=1")
    p.add_argument("--max-regret", type=float)
    p.add_argument("--top", type=int, default=5)
    p.add_argument("--probe", type=int, default=3)
    p.add_argument("--batch", help="glob of scenario files; with --gpu-hours")
    p.add_argument("--gpu-hours", type=float)
    p.add_argument("--then", choices=("fit",), help="start a fit with the configuration of the first choice")
    p.add_argument("--pictures", type=Path, help="folder for the assignment table and the Pareto plot (PNG)")
    p.add_argument("--explain", action="store_true")
    p.add_argument("--json", action="store_true")
    return p


def main(argv: Sequence[str]) -> int:
    """Answer one question or a batch; 0 ok, 2 wrong input, 3 infeasible, 4 abstained."""
    options = parser().parse_args(list(argv))
    try:
        assign_then.check(options)
        if options.batch or options.gpu_hours is not None:
            from septet.launch.assign_batch import batch

            return batch(options)
        request = request_of(options, options.scenario)
        records, quarantined = candidates(options, request.scenario)
        answer = {**choose(records, request), "quarantined": quarantined}
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"assign: {error}") from error
    if options.pictures is not None:
        from septet.lightning_modules.smap.charts import answer_charts

        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, drawn in answer_charts(answer, request.limits.get("max_latency_ms")):
            drawn.savefig(options.pictures / f"{name}.png", dpi=120)
    print(json.dumps(answer, indent=1, sort_keys=True) if options.json else render(answer, records, options.explain))
    if options.then and answer["status"] == "ok":
        return assign_then.start(answer, options)
    return CODES[answer["status"]]


def read_scenario(path: Path | None) -> dict[str, Any]:
    """A scenario file as a mapping."""
    if path is None:
        return {}
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--scenario {path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--scenario {path}: a mapping of fields is wanted, got {type(found).__name__}")
    known = {*FIELDS, "metric", "direction", "max_latency_ms", "max_params", "max_memory_gb", "licence"}
    odd = sorted(set(found) - known)
    if odd:
        raise UsageError(f"--scenario {path}: unknown field {odd[0]!r}{did_you_mean(str(odd[0]), known)}")
    return found


def request_of(options: argparse.Namespace, path: Path | None) -> Request:
    """Options and scenario file as one request; flags and file must agree."""
    given = read_scenario(path)
    for name in (*FIELDS, "metric", "direction", "max_latency_ms", "max_params", "max_memory_gb", "licence"):
        flag = getattr(options, name)
        if flag is not None and name in given and given[name] != flag:
            option = name.replace("_", "-")
            raise UsageError(f"contradictory: --{option} {flag} and {path} says {given[name]}; drop one")
        if flag is not None:
            given[name] = flag
    for name in ("task", "metric"):
        if not isinstance(given.get(name), str):
            raise UsageError(f"assign needs --{name} (or a field {name!r} in --scenario)")
    limits = {k: given[k] for k in ("max_latency_ms", "max_params", "max_memory_gb") if k in given}
    for name, value in [
        *limits.items(),
        ("max_regret", options.max_regret),
        ("top", options.top),
        ("probe", options.probe),
    ]:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UsageError(f"--{name.replace('_', '-')} is {value}: a limit must be positive")
    scenario = canonical_block("scenario", {k: given[k] for k in (*FIELDS, "metric", "direction") if k in given})
    return Request(
        scenario=scenario, limits={k: float(v) for k, v in limits.items()}, licence=given.get("licence", "any"),
        device=options.device, datasets=() if options.datasets == "auto" else tuple(_words(options.datasets)),
        models=tuple(_words(options.models)), scorer=options.scorer, weights=_weights(options.weights),
        max_regret=options.max_regret, top=options.top, probe=options.probe,
    )  # fmt: skip


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def _weights(text: str) -> dict[str, float]:
    known = ("accuracy", "efficiency", "acceptance")
    found = {}
    for word in _words(text):
        name, _, value = word.partition("=")
        if name not in known:
            raise UsageError(f"--weights {word!r}: unknown criterion{did_you_mean(name, known)}")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--weights {word!r}: a number is wanted after '='") from error
    if not found or min(found.values()) < 0 or not 0 < sum(found.values()) < float("inf"):
        raise UsageError(f"--weights {text!r}: not negative, and not all zero")
    return found


def candidates(options: argparse.Namespace, scenario: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Plausible records that equal the scenario's fields, and the number put into quarantine."""
    records = [record for path in options.records for _, record in read_records(path)]
    if options.ledger not in (None, "none") and not Path(options.ledger).is_file():
        raise UsageError(f"--ledger {options.ledger}: no such file (or none)")
    if options.ledger != "none":
        records += ledger_records(assign_then.ledger_path(options))
    if options.tables == "auto":
        records += table_records(scenario["task"])
    named = [(canonical_block("scenario", r["scenario"]), r) for r in records]
    tasks = {str(p.get("task")) for p, _ in named}
    if scenario["task"] not in tasks:
        tasks |= set(table_tasks()) if options.tables == "auto" else set()
        raise UsageError(f"unknown task {scenario['task']!r}{did_you_mean(scenario['task'], tasks)}")
    named = [(p, r) for p, r in named if p.get("task") == scenario["task"]]
    metrics = {str(p.get("metric")) for p, _ in named}
    if scenario["metric"] not in metrics | set(METRIC_DIRECTION):
        raise UsageError(f"unknown metric {scenario['metric']!r}{did_you_mean(scenario['metric'], metrics)}")
    named = [(p, r) for p, r in named if p.get("metric") == scenario["metric"]]
    directions = {p["direction"] for p, _ in named}
    wanted = scenario.get("direction")
    if len(directions) > 1 and wanted is None:
        raise UsageError(f"metric {scenario['metric']!r} is recorded with both directions; give --direction")
    if wanted is not None and directions and wanted not in directions:
        raise UsageError(
            f"contradictory: --direction {wanted}, but the records of {scenario['metric']!r} say {directions.pop()}"
        )
    for name in ("horizon", "domain", "modality"):
        values = {str(p[name]) for p, _ in named if p.get(name) is not None}
        if name in scenario and str(scenario[name]) not in values:
            raise UsageError(f"no record with {name} {scenario[name]!r}{did_you_mean(str(scenario[name]), values)}")
    return gate([r for p, r in named if all(p.get(k) == v for k, v in scenario.items())])


def render(answer: dict[str, Any], records: Sequence[dict[str, Any]], explain: bool) -> str:
    """The answer for people."""
    lines = [f"scenario {answer['scenario']}: {answer['status']}, {answer['records_used']} records, "
             f"{answer['quarantined']} in quarantine, scorer {answer['scorer']}"]  # fmt: skip
    for c in answer["choices"]:
        interval = "" if c["interval"] is None else f" [{c['interval'][0]:.6g}, {c['interval'][1]:.6g}]"
        latency = "" if c["latency_ms"] is None else f", {c['latency_ms']:.4g} ms"
        star = " *" if c["pareto"] else ""
        lines.append(f"{c['rank']:>3}. {c['model']} on {c['dataset']}: {c['predicted']:.6g}{interval}{latency}{star}")
        if explain:
            lines += [
                f"       {e['key'][:12]} {e['dataset']} {e['value']:.6g} from {e['source']}" for e in c["evidence"]
            ]
    shown = answer["rejected"] if explain else answer["rejected"][:3]
    lines += [f"  rejected {r['model']} ({r['dataset']}): {r['reason']}" for r in shown]
    if answer["relaxation"]:
        lines.append(f"  nearest relaxation: {answer['relaxation']['limit']} = {answer['relaxation']['value']}")
    lines += [f"  measure next: {p['model']} ({p['reason']})" for p in answer["probes"] or []]
    if explain:
        protocols = {json.dumps(canonical_block("protocol", r.get("protocol")), sort_keys=True) for r in records}
        if len(protocols) > 1:
            lines.append(
                f"  {len(protocols)} protocols: results under another protocol are other records, never pooled"
            )
        if any(c["pareto"] for c in answer["choices"]):
            lines.append("  * no other candidate is better in score, latency and parameters at once")
    return "\n".join(lines)


def scenario_files(pattern: str) -> list[Path]:
    """Sorted files of a glob."""
    found = sorted(Path(p) for p in glob.glob(pattern))
    if not found:
        raise UsageError(f"--batch {pattern!r} matches no file")
    return found
