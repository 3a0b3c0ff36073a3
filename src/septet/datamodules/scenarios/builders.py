"""From the published tables to the value matrices of the four benches (definitions: README of this folder's tables)."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Built = tuple[list[str], Array, Array | None]


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a gzipped CSV file.

    Raises:
        ValueError: if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"no table {path}; give the folder data/scenarios as root, or None for the shipped tables")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _fill(models: list[str], columns: list[str], cells: dict[tuple[str, str], float]) -> Array:
    return np.array([[cells.get((m, c), np.nan) for c in columns] for m in models], dtype=np.float64)


def _traffic(root: Path, spec: dict[str, Any]) -> Built:
    cells = {}
    for row in read_csv(root / "traffic/torch_mts_runs.csv.gz"):
        name = "TransformerS" if row["model"] == "Transformer" and row["params"] == "150429" else row["model"]
        for step in (3, 6, 12):
            cells[name, f"{row['dataset']}@{step}"] = float(row[f"mae_{step}"] or "nan")
    return list(spec["models"]), _fill(spec["models"], spec["columns"], cells), None


_OPENSTL = {
    "Swin Transformer": "Swin",
    "SimVP+IncepU": "IncepU (SimVPv1)",
    "SimVP+gSTA-S": "gSTA (SimVPv2)",
    "PredRNNv2": "PredRNN.V2",
    "ConvLSTM": "ConvLSTM-S",
}


def _openstl(root: Path, spec: dict[str, Any]) -> Built:
    cells: dict[tuple[str, str], float] = {}
    for row in read_csv(root / "spatiotemporal/openstl_benchmarks.csv.gz"):
        if row["metric"] != "MSE" or not row["value"]:
            continue
        bracket = re.search(r"\(([^)]*)\)", row["table"])
        weather = row["dataset"].lower().startswith("weather")
        column = bracket[1] if weather and bracket else row["dataset"]
        cells.setdefault((_OPENSTL.get(row["model"], row["model"]), column), float(row["value"]))
    return list(spec["models"]), _fill(spec["models"], spec["columns"], cells), None


def _gift(root: Path, spec: dict[str, Any]) -> Built:
    cells = {}
    for row in read_csv(root / "forecasting/gift_eval_results.csv.gz"):
        cells[row["dir"], row["dataset"].lower()] = float(row["MASE[0.5]"] or "nan")
    return list(spec["models"]), _fill(spec["models"], spec["columns"], cells), None


def _metagl(root: Path, spec: dict[str, Any]) -> Built:
    path = root / "graph_learning/metagl_perf.npz"
    if not path.is_file():
        raise ValueError(f"no table {path}; give the folder data/scenarios as root")
    with np.load(path, allow_pickle=False) as archive:
        perf, meta = archive["P"].astype(np.float64), archive["M"].astype(np.float64)
    return [f"m{i:03d}" for i in range(perf.shape[1])], 1.0 - perf.T, np.sign(meta) * np.log1p(np.abs(meta))


BUILDERS: dict[str, Callable[[Path, dict[str, Any]], Built]] = {
    "traffic_mts": _traffic,
    "openstl": _openstl,
    "gift_eval": _gift,
    "metagl": _metagl,
}


def read_compact(name: str) -> Built:
    """Models, values ``(M, C)`` and, for metagl, column features ``(C, F)`` from the package's own tables."""
    source = files("septet.datamodules.scenarios") / "tables" / f"{name}.npz"
    with source.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        models = [str(m) for m in archive["models"]]
        features = archive.get("column_features")
        return models, archive["values"].astype(np.float64), features
