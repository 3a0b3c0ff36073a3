"""Many scenarios at once under one budget of GPU hours, as a mixed-integer programme."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from septet.launch.assign_request import request_of
from septet.launch.assign_sources import candidates
from septet.launch.errors import UsageError
from septet.lightning_modules.smap.assign import solve
from septet.lightning_modules.smap.choose import choose


def scenario_files(pattern: str) -> list[Path]:
    """Sorted files of a glob."""
    found = sorted(Path(p) for p in glob.glob(pattern))
    if not found:
        raise UsageError(f"--batch {pattern!r} matches no file")
    return found


def batch(options: argparse.Namespace) -> int:
    """Assign a model to every scenario file; the sum of training hours stays within ``--gpu-hours``."""
    if not options.batch or options.gpu_hours is None:
        raise UsageError("--batch and --gpu-hours go together")
    if not options.gpu_hours >= 0 or math.isinf(options.gpu_hours):
        raise UsageError(f"--gpu-hours is {options.gpu_hours}: a finite budget, not negative")
    if options.scenario is not None:
        raise UsageError("contradictory: --scenario and --batch; put the file into the glob")
    files, answers = scenario_files(options.batch), []
    for path in files:
        request = request_of(options, path)
        records, _ = candidates(options, request)
        answers.append(choose(records, dataclasses.replace(request, top=10**6)))
    names = sorted({c["model"] for a in answers for c in a["choices"]})
    utility, cost = np.zeros((len(files), 1, max(len(names), 1))), np.zeros((len(files), 1, max(len(names), 1)))
    allowed = np.zeros(utility.shape, dtype=bool)
    for s, answer in enumerate(answers):
        for c in answer["choices"]:
            m = names.index(c["model"])
            known = c["train_s"]
            allowed[s, 0, m] = known is not None
            utility[s, 0, m], cost[s, 0, m] = c["utility"], (known or 0.0) / 3600
    found = solve(utility, allowed, cost=cost, budget=options.gpu_hours)
    result: dict[str, Any] = {"schema": 1, "status": found.status, "gpu_hours": None, "choices": [], "blocked": []}
    result["blocked"] = [{"scenario": files[s].name, "reason": _why(answers[s])} for s in found.blocked]
    least = [cost[s][allowed[s]].min() for s in range(len(files)) if allowed[s].any()]
    result["cheapest_gpu_hours"] = round(float(sum(least)), 9) if len(least) == len(files) else None
    if found.choice is not None:
        picks = [m for _, m in found.choice]
        result["gpu_hours"] = round(float(sum(cost[s, 0, m] for s, m in enumerate(picks))), 9)
        for s, m in enumerate(picks):
            chosen = next(c for c in answers[s]["choices"] if c["model"] == names[m])
            result["choices"].append({"scenario": files[s].name, "hours": round(float(cost[s, 0, m]), 9), **chosen})
    print(json.dumps(result, indent=1, sort_keys=True) if options.json else _render(result))
    return 3 if found.status == "infeasible" else 0


def _why(answer: dict[str, Any]) -> str:
    """Why a scenario has no candidate for the budget."""
    if answer["status"] == "abstain":
        return f"not enough evidence: {answer['probes'][0]['reason']}" if answer["probes"] else "no record"
    if answer["status"] == "infeasible":
        return f"no candidate keeps the limits: {answer['rejected'][0]['reason']}"
    return "no candidate with known training time (criteria.train_s of its records, or a fit row in the ledger)"


def _render(result: dict[str, Any]) -> str:
    hours, cheapest = result["gpu_hours"], result["cheapest_gpu_hours"]
    lines = [f"batch: {result['status']}" + ("" if hours is None else f", {hours:.4g} GPU hours")]
    lines += [f"  {c['scenario']}: {c['model']} on {c['dataset']} ({c['hours']:.4g} h)" for c in result["choices"]]
    lines += [f"  {b['scenario']}: {b['reason']}" for b in result["blocked"]]
    if result["status"] == "infeasible" and cheapest is not None:
        lines.append(f"  the cheapest assignment takes {cheapest:.4g} GPU hours: raise --gpu-hours")
    return "\n".join(lines)
