"""From pooled records to a ranked assignment with evidence, limits and an honest "not enough evidence". No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.canonical import block_text
from septet.datamodules.scenarios.records import canonical_block
from septet.datamodules.scenarios.tables import bench_of_entries, is_percent, model_names, pooled
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.conformal import conformal_quantile
from septet.lightning_modules.smap.evidence import dataset_name, evidence, knn_options, rounded, weights, widened
from septet.lightning_modules.smap.limits import candidate, feasibility, latency_residuals, rejection, relaxation

Array = NDArray[np.float64]
Entry = Mapping[str, Any]
LEVEL = 0.8
"""Coverage of the conformal intervals."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        scenario: canonical fields that a record must equal (task, metric, horizon, ...).
        limits: max_latency_ms, max_params, max_memory_gb where given.
        licence: ``any`` or ``permissive``.
        device: text that a record's device must contain for its latency and memory to count.
        datasets: names to choose among; empty: all.
        models: names to choose among; empty: all.
        scorer: a baseline's name, or ``smap``.
        weights: of accuracy, efficiency, acceptance.
        max_regret: percent; a bound above it abstains.
        top: choices shown.
        probe: models named on abstention.
    """

    scenario: Mapping[str, Any]
    limits: Mapping[str, float] = field(default_factory=dict)
    licence: str = "any"
    device: str = ""
    datasets: Sequence[str] = ()
    models: Sequence[str] = ()
    scorer: str = "knn_shrunk"
    weights: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0})
    max_regret: float | None = None
    top: int = 5
    probe: int = 3


@dataclass
class _Table:
    """The pooled records of a question.

    Attributes:
        entries: by model.
        bench: columns with results of two models at least; only they compare.
        column: number of an entry's column in it, by key; absent where a model stands alone.
        ranks: ``(M, C)``.
    """

    entries: dict[str, list[Entry]]
    bench: Bench
    column: dict[str, int]
    ranks: Array

    def asked(self, model: str, datasets: Sequence[str]) -> list[Entry]:
        """A model's entries on the data sets asked for, where it stands best first; ties in column order."""
        names = {canonical_block("dataset", {"name": d})["name"] for d in datasets}
        row = self.bench.models.index(model)

        def place(e: Entry) -> tuple[int, float, int, str]:
            j = self.column.get(e["key"])
            return (1, 0.0, 0, e["key"]) if j is None else (0, round(float(self.ranks[row, j]), 9), j, e["key"])

        return sorted((e for e in self.entries[model] if not names or dataset_name(e) in names), key=place)


def _table(entries: list[dict[str, Any]], names: Sequence[str]) -> _Table:
    full = bench_of_entries(entries, names)
    shared = [j for j in range(len(full.columns)) if np.isfinite(full.values[:, j]).sum() >= 2]
    bench = Bench(
        full.name, full.models, [full.columns[j] for j in shared], [full.group[j] for j in shared],
        [full.scenario[j] for j in shared], full.kind, full.values[:, shared], full.column_features[shared],
    )  # fmt: skip
    by_model: dict[str, list[Entry]] = {}
    for name, entry in zip(names, entries, strict=True):
        by_model.setdefault(name, []).append(entry)
    place = {c: j for j, c in enumerate(bench.columns)}
    column = {e["key"]: place[e["column"]] for e in entries if e["column"] in place}
    return _Table(by_model, bench, column, np.empty((0, 0)) if not shared else baselines.table(bench, "rank"))


def _scores(bench: Bench, scorer: str) -> Array:
    """Score per model: the rule applied to a new column in the middle of the scenario's features."""
    wide, train, test = widened(bench), list(range(len(bench.columns))), [len(bench.columns)]
    if scorer == "smap":
        from septet.datamodules.scenarios.splits import Split
        from septet.lightning_modules.smap.run import fit_predict

        return fit_predict(wide, Split("?", train, test))[:, 0]
    return baselines.predict(scorer, wide, train, test, **knn_options(bench, scorer))[:, 0]


def _measured(table: _Table, general: Array, columns: list[int]) -> Array:
    """Mean rank on the data sets asked for; who was measured alone there stands in the middle; ties by the scorer."""
    held = table.ranks[:, columns]
    count = np.isfinite(held).sum(1)
    mean = np.where(count > 0, np.where(np.isfinite(held), held, 0.0).sum(1) / np.maximum(count, 1), 0.5)
    order = np.argsort(np.argsort(general, kind="stable"), kind="stable")
    return np.asarray(np.round(mean, 9) + 1e-9 * order / max(len(order), 1))


def regret_residuals(bench: Bench, scorer: str) -> list[float]:
    """Regret in percent (points) of the first choice on each column, its group left out.

    ``smap`` would need a fit for each group: its place takes ``knn_shrunk``.
    """
    rule = scorer if scorer in baselines.NAMES else "knn_shrunk"
    found = []
    for group in dict.fromkeys(bench.group):
        test = [j for j, g in enumerate(bench.group) if g == group]
        train = [j for j, g in enumerate(bench.group) if g != group]
        if not train:
            continue
        scores = baselines.predict(rule, bench, train, test)
        for q, j in enumerate(test):
            column = bench.values[:, j]
            seen = np.isfinite(column)
            if seen.sum() >= 2:
                pick, best = column[seen][np.argmin(scores[seen, q])], column[seen].min()
                found.append(100 * (pick - best) / (best if bench.kind == "error" else 1.0))
    return found


def regret_bound(bench: Bench, scorer: str) -> float:
    """Conformal bound in percent (points) of the regret of the first choice, by leaving one group out."""
    return conformal_quantile(regret_residuals(bench, scorer), LEVEL)


def choose(records: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """The answer as a plain mapping (specification, section 8), equal for the same records in any order.

    A candidate is a model on a data set: limits bind its own measurements (:func:`limits.candidate`). Beyond the
    specification's fields: ``notes``; in a choice ``place`` (scenario fields that the question leaves open),
    ``assumed`` (quantities taken from the model's other records) and ``train_s``.
    """
    entries = pooled(records)
    answer: dict[str, Any] = {
        "schema": 1, "status": "ok", "scenario": dict(sorted(request.scenario.items())), "scorer": request.scorer,
        "choices": [], "rejected": [], "relaxation": None, "probes": None, "records_used": len(entries), "notes": [],
    }  # fmt: skip
    names = model_names(entries)
    few = _too_few(entries, names, request)
    if few is not None:
        return {**answer, "status": "abstain", "probes": few}
    table = _table(entries, names)
    bench, general = table.bench, _scores(table.bench, request.scorer)
    residuals = regret_residuals(bench, request.scorer)
    bound = conformal_quantile(residuals, LEVEL)
    answer["notes"] = _notes(table, request, residuals)
    order = [bench.models[i] for i in np.argsort(general, kind="stable")]
    if request.max_regret is not None and bound > request.max_regret:
        shown = "unbounded" if math.isinf(bound) else f"{bound:.3g} %"
        reason = f"regret of the first choice is bounded by {shown} only, wanted {request.max_regret:g} %"
        return {**answer, "status": "abstain", "probes": _probes(table.entries, order, request, reason)}
    columns = sorted({table.column[e["key"]] for m in order for e in table.asked(m, request.datasets)
                      if e["key"] in table.column}) if request.datasets else []  # fmt: skip
    scores = _measured(table, general, columns) if columns else general
    score = {m: float(scores[i]) for i, m in enumerate(bench.models)}
    order.sort(key=lambda m: score[m])
    picks, tried = _candidates(table, order, request, answer["rejected"])
    if not picks:
        return {**answer, "status": "infeasible", "relaxation": relaxation(tried, request.limits, request.licence)}
    answer["choices"] = _choices(table, picks, score, request, bound, weights(bench, request.scorer, columns))
    if len({c["dataset"] for c in answer["choices"]}) > 1:
        answer["notes"].insert(0, "choices stand on different data sets: ranks compare, values do not (see --datasets)")
    return answer


def _candidates(
    table: _Table, order: Sequence[str], request: Request, rejected: list[dict[str, Any]]
) -> tuple[dict[str, tuple[Entry, dict[str, Any]]], list[dict[str, Any]]]:
    """Per model its best admitted entry with the quantities, and the quantities of all that were tried."""
    names = {canonical_block("model", {"name": m})["name"] for m in request.models}
    picks, tried = {}, []
    for m in order:
        asked = table.asked(m, request.datasets)
        why = "no record on --datasets" if not asked else None
        if names and not names & {m, m.split("/")[0], "/".join(m.split("/")[:2])}:
            why = "not among --models"
        first = (asked or table.asked(m, ()))[0]
        for entry in asked if why is None else []:
            found = candidate(entry, table.entries[m], request.device)
            tried.append(found)
            broken = rejection(found, request.limits, request.licence)
            if broken is None:
                picks[m] = (entry, found)
                break
            why = why or broken
        if why is not None:
            rejected.append({"model": m, "dataset": dataset_name(first), "reason": why})
    return picks, tried


def _choices(
    table: _Table, picks: Mapping[str, tuple[Entry, dict[str, Any]]], score: Mapping[str, float], request: Request,
    bound: float, shares: Array | None,
) -> list[dict[str, Any]]:  # fmt: skip
    found = {m: quantity for m, (_, quantity) in picks.items()}
    moves = [] if request.datasets else latency_residuals(table.entries, request.device)
    limit, utility = request.limits.get("max_latency_ms"), _utilities(list(picks), score, found, request.weights)
    front, order, open_fields = _pareto(list(picks), score, found), list(picks), _open(table, request)
    ranked = sorted(order, key=lambda m: (-utility[m], order.index(m)))
    choices = []
    for rank, m in enumerate(ranked[: request.top], 1):
        entry, own = picks[m]
        place = canonical_block("scenario", entry["record"]["scenario"])
        timed = [entry] if "latency" not in own["assumed"] else table.entries[m]
        row = None if shares is None else shares[table.bench.models.index(m)]
        choices.append({
            "rank": rank, "dataset": dataset_name(entry), "model": m, "predicted": rounded(entry["mean"]),
            "interval": _interval(entry["mean"], bound, table.bench.kind, is_percent(entry["record"])),
            "latency_ms": rounded(own["latency"]), "train_s": rounded(own["train_s"]),
            "p_feasible": rounded(feasibility(timed, limit, moves, request.device)),
            "utility": rounded(utility[m]), "pareto": m in front, "assumed": own["assumed"],
            "place": {k: place[k] for k in open_fields if k in place},
            "evidence": evidence(table.entries[m], entry, table.bench.columns, row),
        })  # fmt: skip
    return choices


def _open(table: _Table, request: Request) -> dict[str, list[str]]:
    """Scenario fields that the question leaves open and that differ among the records, with their values."""
    found: dict[str, set[str]] = {}
    for m in table.entries:
        for e in table.asked(m, request.datasets):
            for k, v in canonical_block("scenario", e["record"]["scenario"]).items():
                if k not in request.scenario:
                    found.setdefault(k, set()).add(str(v))
    return {k: sorted(v) for k, v in sorted(found.items()) if len(v) > 1}


def _notes(table: _Table, request: Request, residuals: Sequence[float]) -> list[str]:
    """What a reader must know beside the numbers."""
    notes = []
    if request.datasets:
        notes.append("order by the results measured on --datasets; the scorer breaks ties only")
    for name, values in _open(table, request).items():
        shown = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
        flag = f"give --{name}" if name in ("horizon", "domain", "modality") else f"fix {name}"
        notes.append(f"results of {len(values)} values of {name} ({shown}) are mixed and do not compare: {flag}")
    protocols = {block_text(e["record"], "protocol") for m in table.entries for e in table.asked(m, request.datasets)}
    if len(protocols) > 1:
        notes.append(f"results of {len(protocols)} protocols: models are ranked within each, values do not compare")
    if len(table.bench.columns) == 1:
        notes.append("the models share one data set only; no result says how the choice carries over to another")
    rule = request.scorer if request.scorer in baselines.NAMES else "knn_shrunk, not smap (that takes a fit per group)"
    groups = len(dict.fromkeys(table.bench.group))
    left = f"{len(residuals)} columns of {groups} data sets left out, rule {rule}"
    bound = conformal_quantile(residuals, LEVEL)
    left += "; none of these choices had any regret" if residuals and not max(residuals) else ""
    notes.append(f"intervals: {LEVEL:.0%} conformal bound of the first choice's regret, {left}"
                 if math.isfinite(bound) else f"no interval at {LEVEL:.0%}: {left}")  # fmt: skip
    if request.weights.get("acceptance") and not any(
        (r.get("acceptance") or {}).get("stars") is not None
        for e in table.entries.values()
        for x in e
        for r in x["rows"]
    ):
        notes.append("no record carries stars: the weight of acceptance moves nothing")
    total = sum(request.weights.values())
    if abs(total - 1) > 1e-9:
        notes.append(f"weights sum to {total:g} and are divided by it")
    return notes


def _interval(value: float, bound: float, kind: str, percent: bool) -> list[float | None] | None:
    """Where a result may fall short of the choice's own: the conformal regret bound around the pooled mean."""
    if math.isinf(bound):
        return None
    if kind == "error":
        width = value * bound / 100
        return [rounded(max(value - width, 0.0)), rounded(value + width)]
    top = 100.0 if percent else 1.0
    width = bound * top / 100
    return [rounded(max(value - width, 0.0)), rounded(min(value + width, top))]


def _unit(values: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    """Normalised ranks in [0, 1], low is best; unknown counts as worst."""
    known = sorted({v for m in names if (v := values[m]) is not None})
    return {m: known.index(v) / max(len(known) - 1, 1) if (v := values[m]) is not None else 1.0 for m in names}


def _utilities(
    names: Sequence[str],
    score: Mapping[str, float],
    table: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float],
) -> dict[str, float]:
    quantity = "latency" if any(table[m]["latency"] is not None for m in names) else "params"
    cost = {m: table[m][quantity] for m in names}
    stars = {m: None if table[m]["stars"] is None else -table[m]["stars"] for m in names}
    slow, unknown = _unit(cost, names), _unit(stars, names)
    total = sum(weights.values())
    return {
        m: -(weights.get("accuracy", 0) * score[m] + weights.get("efficiency", 0) * slow[m]
             + weights.get("acceptance", 0) * unknown[m]) / total
        for m in names
    }  # fmt: skip


def _pareto(names: Sequence[str], score: Mapping[str, float], table: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Models that no other beats in score, latency and parameters at once; unknown is worst."""

    def point(m: str) -> tuple[float, ...]:
        return (score[m], *(math.inf if table[m][q] is None else table[m][q] for q in ("latency", "params")))

    return {
        m for m in names
        if not any(point(o) != point(m) and all(a <= b for a, b in zip(point(o), point(m), strict=True)) for o in names)
    }  # fmt: skip


def _too_few(entries: list[dict[str, Any]], names: Sequence[str], request: Request) -> list[dict[str, Any]] | None:
    """Models to measure where the records cannot compare models; None where they can."""
    by_model: dict[str, list[Entry]] = {}
    for name, entry in zip(names, entries, strict=True):
        by_model.setdefault(name, []).append(entry)
    places: dict[str, set[str]] = {}
    for m, held in by_model.items():
        for e in held:
            places.setdefault(e["column"], set()).add(m)
    if len(by_model) < 2 or len(entries) < 3:
        reason = f"{len(by_model)} models and {len(entries)} records; at least 2 and 3 are needed"
    elif all(len(models) < 2 for models in places.values()):
        reason = "no data set has results of two models, so nothing compares"
    else:
        return None
    order = sorted(by_model, key=lambda m: (len(by_model[m]), m))
    return _probes(by_model, order, request, reason)


def _probes(
    by_model: Mapping[str, Sequence[Entry]], order: Sequence[str], request: Request, reason: str
) -> list[dict[str, Any]]:
    """Models to measure next and where: on the data sets that others have and they have not, else on a new one."""
    known = sorted({dataset_name(e) for held in by_model.values() for e in held})
    found = []
    for m in order[: request.probe]:
        own = {dataset_name(e) for e in by_model[m]}
        missing = [d for d in known if d not in own]
        where = f"on {missing[0]}" if missing else f"on a data set other than {', '.join(known[:3])}"
        if len(by_model) < 2:
            where += f", and a second model on {known[0]}"
        found.append({"model": m, "reason": f"{reason}; measure it {where}"})
    return found
