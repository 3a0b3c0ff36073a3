"""Many scenarios at once under one budget of GPU hours, as a mixed-integer programme."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from typing import Any

import numpy as np

from septet.datamodules.scenarios.tables import model_name, pooled
from septet.launch.errors import UsageError
from septet.lightning_modules.smap.assign import solve
from septet.lightning_modules.smap.choose import choose
from septet.lightning_modules.smap.limits import quantities


def batch(options: argparse.Namespace) -> int:
    """Assign a model to every scenario file; the sum of training hours stays within ``--gpu-hours``."""
    from septet.launch.assign import candidates, request_of, scenario_files

    if not options.batch or options.gpu_hours is None:
        raise UsageError("--batch and --gpu-hours go together")
    if not options.gpu_hours >= 0 or math.isinf(options.gpu_hours):
        raise UsageError(f"--gpu-hours is {options.gpu_hours}: a finite budget, not negative")
    if options.scenario is not None:
        raise UsageError("contradictory: --scenario and --batch; put the file into the glob")
    files, answers, hours = scenario_files(options.batch), [], []
    for path in files:
        request = request_of(options, path)
        records, _ = candidates(options, request.scenario)
        answers.append(choose(records, dataclasses.replace(request, top=10**6)))
        hours.append(_hours(records, options.device))
    names = sorted({c["model"] for a in answers for c in a["choices"]})
    utility, cost = np.zeros((len(files), 1, max(len(names), 1))), np.zeros((len(files), 1, max(len(names), 1)))
    allowed = np.zeros(utility.shape, dtype=bool)
    for s, answer in enumerate(answers):
        for c in answer["choices"]:
            m = names.index(c["model"])
            known = hours[s].get(c["model"])
            allowed[s, 0, m] = known is not None
            utility[s, 0, m], cost[s, 0, m] = c["utility"], known or 0.0
    found = solve(utility, allowed, cost=cost, budget=options.gpu_hours)
    result: dict[str, Any] = {"schema": 1, "status": found.status, "gpu_hours": None, "choices": [], "blocked": []}
    result["blocked"] = [files[s].name for s in found.blocked]
    if found.choice is not None:
        picks = [m for _, m in found.choice]
        result["gpu_hours"] = round(float(sum(cost[s, 0, m] for s, m in enumerate(picks))), 9)
        for s, m in enumerate(picks):
            chosen = next(c for c in answers[s]["choices"] if c["model"] == names[m])
            result["choices"].append({"scenario": files[s].name, "hours": round(float(cost[s, 0, m]), 9), **chosen})
    print(json.dumps(result, indent=1, sort_keys=True) if options.json else _render(result))
    return 3 if found.status == "infeasible" else 0


def _hours(records: list[dict[str, Any]], device: str) -> dict[str, float]:
    """Median training hours of each model that has them recorded."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for entry in pooled(records):
        by_model.setdefault(model_name(entry["record"]), []).append(entry)
    found = {m: quantities(entries, device)["train_s"] for m, entries in by_model.items()}
    return {m: float(s) / 3600 for m, s in found.items() if s is not None}


def _render(result: dict[str, Any]) -> str:
    lines = [
        f"batch: {result['status']}" + ("" if result["gpu_hours"] is None else f", {result['gpu_hours']:.4g} GPU hours")
    ]
    lines += [f"  {c['scenario']}: {c['model']} on {c['dataset']} ({c['hours']:.4g} h)" for c in result["choices"]]
    lines += [f"  {name}: no candidate with known training time" for name in result["blocked"]]
    return "\n".join(lines)
