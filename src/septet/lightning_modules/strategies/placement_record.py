"""What a run says about its plan: loads planned and met, bytes per process, and the pictures of whole profiles."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import Tensor

from septet.kernels.placement import HeadPlan
from septet.lightning_modules.strategies.head_parallel import ProcessShard
from septet.lightning_modules.strategies.loading import LoadReport
from septet.lightning_modules.strategies.pictures import copies_figure, met_figure, speedup_figure
from septet.lightning_modules.strategies.placed_cache import planned_kv_bytes
from septet.lightning_modules.strategies.profiling import drift
from septet.lightning_modules.strategies.sweeps import profiles, speedups, utilisation_by_copies
from septet.lightning_modules.task import Task

SWEEP_BATCH, SWEEP_BUDGET = 8, 4096
BATCHES = (1, 8, 32, 128)


def placement_record(
    plan: HeadPlan, shard: ProcessShard, planned: Tensor | None, weight_cost: float, report: LoadReport | None = None
) -> dict[str, Any]:
    """Loads and KV bytes after the prompts, by policy; every process calls it.

    Args:
        plan: of the run.
        shard: of the cut model; its caches filed what they kept.
        planned: ``(L, H_kv)`` tokens per sequence that the plan was solved for, None if it was given ready.
        weight_cost: of a replica, in tokens of one KV head.
        report: of this process's loading, None if weights were not read in slices.

    Returns:
        ``utilisation_planned``, ``loading`` (bytes of each process's :class:`LoadReport`), and under ``policies`` by
        label: ``utilisation_met``, ``drifted``, ``kv_bytes_per_device`` (measured, mean of a batch),
        ``kv_bytes_of_loads_met`` (what the plan gives for the mean tokens that were kept) and ``kv_bytes_planned``
        (for the tokens of the profile, None without one).
    """
    rows: dict[str, dict[str, Any]] = {}
    for label, met in shard.met.items():
        tokens = shard.complete(met)
        used, low = drift(plan, tokens, weight_cost)
        measured = sum(met.kv_bytes) / met.batches
        unit = sum(met.kv_bytes) / max(1.0, float(met.tokens.sum()))
        unit = max(shard.per_device(unit))
        rows[label] = {
            "batches": met.batches,
            "utilisation_met": used,
            "drifted": low and label != "full",
            "kv_bytes_per_device": shard.per_device(measured),
            "kv_bytes_of_loads_met": shard.per_device(planned_kv_bytes(shard, tokens, round(unit))),
            "kv_bytes_planned": None
            if planned is None
            else shard.per_device(planned_kv_bytes(shard, planned, round(unit))),
        }
    return {
        "utilisation_planned": plan.meta.get("utilisation"),
        "copies_per_layer": plan.copies,
        "loading": None
        if report is None
        else _of_every_process(shard, {**asdict(report), "peak_bytes": report.peak_bytes}),
        "policies": rows,
    }


def _of_every_process(shard: ProcessShard, numbers: dict[str, int]) -> list[dict[str, int]]:
    """These numbers of each process, in rank order."""
    columns = {name: shard.per_device(value) for name, value in numbers.items()}
    count = len(next(iter(columns.values())))
    return [{name: int(values[rank]) for name, values in columns.items()} for rank in range(count)]


def save_placement(module: Task, record: dict[str, Any]) -> None:
    """``media/placement.json`` and the picture of bytes per process."""
    module.save_media("placement.json", json.dumps(record, indent=1) + "\n")
    rows = record["policies"]
    planned = next((row["kv_bytes_planned"] for row in rows.values()), None)
    module.save_picture(
        "kv_bytes_per_process", met_figure(planned, {label: row["kv_bytes_per_device"] for label, row in rows.items()})
    )


def save_sweeps(module: Task) -> None:
    """Utilisation against copies of every profile at hand, and the simulated speed-up against batch of one of them.

    Args:
        module: saves the pictures.
    """
    tables = profiles(SWEEP_BUDGET)
    for count in (4, 8):
        curves = {name: utilisation_by_copies(tokens, count, SWEEP_BATCH) for name, tokens in tables.items()}
        title = f"{count} devices, batch {SWEEP_BATCH}, simulated"
        module.save_picture(f"utilisation_against_copies_{count}", copies_figure(curves, title))
    name = next((n for n in tables if n != "generated"), "generated")
    lines = {f"{k} copies" if k else "assignment only": speedups(tables[name], 4, BATCHES, k) for k in (0, 2)}
    title = f"{name}, budget {SWEEP_BUDGET}, Llama-3-8B in bf16, 4 devices: simulated, not measured"
    module.save_picture("speedup_against_batch", speedup_figure(BATCHES, lines, title))
