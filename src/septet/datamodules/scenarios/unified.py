"""The unified table: every shipped record of every source in one shape, and the graph over all of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.targets import column_targets

_PERCENT = ("openmmlab", "fastreid")
"""Sources whose accuracies are percentages."""
_SELF_REPORTED = {"gift_eval": "gift_eval, self-reported"}


@cache
def unified_table() -> dict[str, NDArray[Any]]:
    """The table by columns.

    ``scenario dataset model metric source`` are numbers into ``scenarios datasets ...``; ``value quarantine higher``
    stand beside them, and ``component`` holds pairs of model and tag.
    """
    source = files("septet.datamodules.scenarios") / "tables" / "unified.npz"
    with source.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def unified_tasks() -> list[str]:
    """Names of the scenarios, as tasks."""
    return [str(name) for name in unified_table()["scenarios"]]


def unified_records(task: str) -> list[dict[str, Any]]:
    """Scenario records of one task (a scenario of the table, any case), quarantined rows left out.

    A set ``NAME@libcity`` is another version of NAME: same group, never pooled with it.
    """
    table = unified_table()
    names = [name.casefold() for name in unified_tasks()]
    if task.casefold() not in names:
        return []
    rows = np.flatnonzero((table["scenario"] == names.index(task.casefold())) & ~table["quarantine"])
    found = []
    for i in rows:
        source = str(table["sources"][table["source"][i]])
        higher = bool(table["higher"][i])
        dataset, _, version = str(table["datasets"][table["dataset"][i]]).partition("@")
        unit = {"unit": "percent"} if source in _PERCENT and higher else {}
        found.append({
            "scenario": {"task": task, "metric": str(table["metrics"][table["metric"][i]]),
                         "direction": "max" if higher else "min", **unit},
            "dataset": {"name": dataset, "group": dataset, **({"version": version} if version else {})},
            "model": {"name": str(table["models"][table["model"][i]])},
            "protocol": {"table": _SELF_REPORTED.get(source, source)}, "value": float(table["value"][i]), "n": 1,
            "provenance": {"source": f"{source}: {table['datasets'][table['dataset'][i]]}", "licence": "Apache-2.0"},
        })  # fmt: skip
    return found


def unified_graph(leave_out: Collection[str] = ()) -> Any:
    """All scenarios, data sets, models and components as a ``HeteroData``.

    Args:
        leave_out: base data sets (``NAME`` covers ``NAME@libcity``) that stay as nodes but lend no result.

    Returns:
        Nodes scenario, dataset, model, component with identity numbers ``id``; edges uses, evaluated (edge_attr
        ``[z, r]`` within scenario, data set and metric), supports, has, each with its reverse ``rev_...``.

    Raises:
        ValueError: a data set that the table does not hold.
    """
    import torch

    from septet.datamodules.scenarios.graph import hetero

    table, graph = unified_table(), hetero()
    base = [str(name).partition("@")[0] for name in table["datasets"]]
    unknown = sorted(set(leave_out) - set(base))
    if unknown:
        raise ValueError(f"no data set {unknown[0]!r} in the unified table")
    barred = np.isin(np.array(base), list(leave_out))
    seen = ~table["quarantine"] & ~barred[table["dataset"]]
    for name in ("scenario", "dataset", "model", "component"):
        graph[name].id = torch.arange(len(table[f"{name}s"]))
    z, r = _targets(table, seen)
    supports = np.unique(np.column_stack([table["scenario"], table["model"]])[seen], axis=0)
    pairs = {
        ("scenario", "uses", "dataset"): np.unique(np.column_stack([table["scenario"], table["dataset"]]), axis=0),
        ("dataset", "evaluated", "model"): np.column_stack([table["dataset"], table["model"]])[seen],
        ("scenario", "supports", "model"): supports,
        ("model", "has", "component"): table["component"],
    }
    for (a, name, b), listed in pairs.items():
        index = torch.tensor(listed.T.astype(np.int64).copy())
        graph[a, name, b].edge_index = index
        graph[b, f"rev_{name}", a].edge_index = index.flip(0)
    attr = torch.tensor(np.column_stack([z, r])[seen], dtype=torch.float32)
    graph["dataset", "evaluated", "model"].edge_attr = attr
    graph["model", "rev_evaluated", "dataset"].edge_attr = attr
    return graph


def _targets(table: dict[str, NDArray[Any]], seen: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Z and r of each row among the visible rows of its scenario, data set and metric; 0 elsewhere."""
    z, r = np.zeros(len(seen)), np.zeros(len(seen))
    cell = (table["scenario"].astype(np.int64) * 1000 + table["dataset"]) * 1000 + table["metric"]
    for number in np.unique(cell[seen]):
        rows = np.flatnonzero((cell == number) & seen)
        higher = bool(table["higher"][rows[0]])
        value = table["value"][rows]
        loss = 1 - value / max(float(value.max()), 1.0) if higher else np.maximum(value, 1e-12)
        z_rows, r_rows, _ = column_targets(loss[:, None], "accuracy" if higher else "error")
        z[rows], r[rows] = z_rows[:, 0], r_rows[:, 0]
    return z, r
