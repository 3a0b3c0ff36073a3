"""The answer of ``septet assign`` for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from septet.datamodules.scenarios.records import canonical_block
from septet.datamodules.scenarios.tables import Quarantine, model_name

_SHOWN = 3
NOT_ASKED = ("not among --models", "no record on --datasets")
"""Reasons that only repeat the question."""


def render(
    answer: Mapping[str, Any], records: Sequence[Mapping[str, Any]], quarantine: Quarantine, explain: bool
) -> str:
    """Choices, rejections, what would help, and the notes."""
    lines = [f"scenario {answer['scenario']}: {answer['status']}, {answer['records_used']} records, "
             f"{answer['quarantined']} in quarantine, scorer {answer['scorer']}"]  # fmt: skip
    for c in answer["choices"]:
        lines.append(_choice(c))
        lines += _evidence(c) if explain else []
    rejected = sorted(answer["rejected"], key=lambda r: r["reason"] in NOT_ASKED)
    shown = rejected if explain else [r for r in rejected if r["reason"] not in NOT_ASKED][:_SHOWN]
    lines += [f"  rejected {r['model']} ({r['dataset']}): {r['reason']}" for r in shown]
    if len(shown) < len(rejected):
        lines.append(f"  rejected: {len(shown)} of {len(rejected)} shown, --explain lists all")
    if answer["relaxation"]:
        lines.append(f"  nearest relaxation: {answer['relaxation']['limit']} = {answer['relaxation']['value']}")
    elif answer["status"] == "infeasible":
        lines.append("  no single limit can be relaxed to admit a candidate")
    lines += [f"  measure next: {p['model']} ({p['reason']})" for p in answer["probes"] or []]
    lines += [f"  note: {note}" for note in answer["notes"]]
    return "\n".join([*lines, *(_explained(answer, records, quarantine) if explain else [])])


def _choice(c: Mapping[str, Any]) -> str:
    interval = "" if c["interval"] is None else f" [{c['interval'][0]:.6g}, {c['interval'][1]:.6g}]"
    place = "" if not c["place"] else f" ({', '.join(str(v) for v in c['place'].values())})"
    latency = "" if c["latency_ms"] is None else f", {c['latency_ms']:.4g} ms"
    latency += " (median of its other records)" if latency and "latency" in c["assumed"] else ""
    sure = "" if c["p_feasible"] in (None, 1.0) else f", keeps the latency limit elsewhere with p {c['p_feasible']:.2f}"
    others = [a for a in c["assumed"] if a in ("memory", "params")]
    said = f", {' and '.join(others)} from its other records" if others else ""
    star = " *" if c["pareto"] else ""
    head = f"{c['rank']:>3}. {c['model']} on {c['dataset']}{place}: {c['predicted']:.6g}{interval}"
    return f"{head}{latency}{sure}{said}{star}"


def _evidence(c: Mapping[str, Any]) -> list[str]:
    return [
        f"       {e['key'][:12]} {e['dataset']} {e['value']:.6g} from {e['source']}"
        + ("" if e["weight"] is None else f", weight {e['weight']:.3g}")
        for e in c["evidence"]
    ]


def _explained(answer: Mapping[str, Any], records: Sequence[Mapping[str, Any]], quarantine: Quarantine) -> list[str]:
    lines = [
        f"  quarantine: {model_name(r)} on {r['dataset']['name']} = {r.get('value')} "
        f"from {r['provenance'].get('run_id') or r['provenance'].get('source')}: {why}"
        for r, why in quarantine
    ]
    protocols = {json.dumps(canonical_block("protocol", r.get("protocol")), sort_keys=True) for r in records}
    if len(protocols) > 1:
        lines.append(f"  {len(protocols)} protocols: results under another protocol are other records, never pooled")
    if any(c["pareto"] for c in answer["choices"]):
        lines.append("  * no other candidate is better in score, latency and parameters at once")
    if any(e["weight"] is None for c in answer["choices"] for e in c["evidence"]):
        lines.append(f"  {answer['scorer']} gives single records no weight: evidence is the model's own results")
    return lines
