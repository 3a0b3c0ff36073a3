"""A bench: models x columns of measured results, with features, groups and scenarios."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.costs import traffic_latency

Array = NDArray[np.float64]
NAMES = ("traffic_mts", "openstl", "gift_eval", "metagl")


@dataclass(frozen=True, eq=False)
class Bench:
    """One table of results.

    Attributes:
        name: of the bench.
        models: ``(M,)`` names of the rows.
        columns: ``(C,)`` names of the columns: a data set at a horizon, a task.
        group: ``(C,)`` base data set of a column; columns of a group leave together.
        scenario: ``(C,)`` names.
        kind: ``error`` (positive, lower is better) or ``accuracy`` (values are 1 - accuracy).
        values: ``(M, C)`` float64, NaN missing.
        column_features: ``(C, F)``.
        model_features: ``(M, G)`` or None; NaN unknown.
        folds: lists of column numbers, or of model names (cold start), or None.
        latency: ``(M, C)`` milliseconds, NaN unknown, or None.
        acceptance: ``(M,)`` log(1 + stars) or the like, NaN unknown, or None.
        when: ``(C,)`` ISO date of a column's latest result, "" unknown, or None.

    Raises:
        ValueError: shapes, duplicate names, unknown kind, non-positive errors.
    """

    name: str
    models: list[str]
    columns: list[str]
    group: list[str]
    scenario: list[str]
    kind: str
    values: Array
    column_features: Array
    model_features: Array | None = None
    folds: Sequence[Sequence[int]] | Sequence[Sequence[str]] | None = None
    latency: Array | None = None
    acceptance: Array | None = None
    when: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        object.__setattr__(self, "column_features", np.asarray(self.column_features, dtype=np.float64))
        if self.model_features is not None:
            object.__setattr__(self, "model_features", np.asarray(self.model_features, dtype=np.float64))
        self._check_shapes()
        for what, names in (("models", self.models), ("columns", self.columns)):
            double = next((n for n in names if names.count(n) > 1), None) if len(set(names)) < len(names) else None
            if double is not None:
                raise ValueError(f"bench {self.name!r}: {what} holds {double!r} twice; names must differ")
        if self.kind not in ("error", "accuracy"):
            raise ValueError(f"bench {self.name!r}: kind is {self.kind!r}; use 'error' or 'accuracy'")
        finite = self.values[np.isfinite(self.values)]
        if self.kind == "error" and np.any(finite <= 0):
            raise ValueError(f"bench {self.name!r}: an error of {finite.min()} is not positive; remove the cell (NaN)")

    def _check_shapes(self) -> None:
        m, c = len(self.models), len(self.columns)
        if self.values.shape != (m, c):
            raise ValueError(f"bench {self.name!r}: values are {self.values.shape}, want ({m}, {c}) models x columns")
        for what, names in (("group", self.group), ("scenario", self.scenario)):
            if len(names) != c:
                raise ValueError(f"bench {self.name!r}: {what} has {len(names)} names for {c} columns")
        if self.column_features.ndim != 2 or len(self.column_features) != c:
            raise ValueError(f"bench {self.name!r}: column_features {self.column_features.shape}, want ({c}, F)")
        if self.model_features is not None and (self.model_features.ndim != 2 or len(self.model_features) != m):
            raise ValueError(f"bench {self.name!r}: model_features {self.model_features.shape}, want ({m}, G)")
        if self.latency is not None and self.latency.shape != (m, c):
            raise ValueError(f"bench {self.name!r}: latency {self.latency.shape}, want ({m}, {c})")
        if self.acceptance is not None and self.acceptance.shape != (m,):
            raise ValueError(f"bench {self.name!r}: acceptance {self.acceptance.shape}, want ({m},)")

    def sha256(self) -> str:
        """Sum of ``round(nan -> -1, 6)`` as float64 bytes in C order."""
        return hashlib.sha256(
            np.ascontiguousarray(np.round(np.nan_to_num(self.values, nan=-1.0), 6)).tobytes()
        ).hexdigest()


@cache
def _specs() -> dict[str, Any]:
    """Names, groups, scenarios, features and folds of the four benches."""
    specs: dict[str, Any] = json.loads((files("septet.datamodules.scenarios") / "tables/benches.json").read_text())
    return specs


def load_bench(name: str, root: str | Path | None = None) -> Bench:
    """One of the four benches.

    Args:
        name: traffic_mts, openstl, gift_eval or metagl.
        root: the folder ``data/scenarios`` with the full tables; None: the compact tables of the package.

    Raises:
        ValueError: unknown name, missing table, or values that differ from the recorded sum.
    """
    if name not in NAMES:
        from difflib import get_close_matches

        near = get_close_matches(name, NAMES, n=1, cutoff=0.3)
        raise ValueError(
            f"unknown bench {name!r}" + (f"; did you mean {near[0]!r}?" if near else f": {', '.join(NAMES)}")
        )
    from septet.datamodules.scenarios.builders import BUILDERS, read_compact

    spec = _specs()[name]
    if root is None:
        models, values, features = read_compact(name)
    else:
        models, values, features = BUILDERS[name](Path(root), spec)
    bench = _assemble(name, spec, models, values, features)
    if bench.sha256() != spec["matrix_sha256"]:
        raise ValueError(
            f"bench {name!r}: the table gives sum {bench.sha256()[:12]}, recorded {spec['matrix_sha256'][:12]}"
        )
    return bench


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with ``#2`` on a second occurrence (MetaGL lists tech-routers-rf twice, with different results)."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def _assemble(name: str, spec: dict[str, Any], models: list[str], values: Array, features: Array | None) -> Bench:
    columns = _distinct(spec["columns"])
    model_features = spec.get("model_features")
    latency = traffic_latency(list(spec["group"])) if name == "traffic_mts" else None
    return Bench(
        name=name,
        models=models,
        columns=columns,
        group=list(spec.get("group", columns)),
        scenario=list(spec["scenario"]),
        kind=spec["kind"],
        values=values,
        column_features=np.asarray(spec["column_features"], dtype=np.float64) if features is None else features,
        model_features=None if model_features is None else np.asarray(model_features, dtype=np.float64),
        folds=spec.get("folds", spec.get("cold_model_folds")),
        latency=latency,
    )


def components_of(models: Sequence[str], records: Sequence[Mapping[str, Any]] | None = None) -> dict[str, list[str]]:
    """Component tags per model: those of the records, else the shipped tags, else none."""
    path = files("septet.datamodules.scenarios") / "tables" / "components.json"
    shipped: dict[str, list[str]] = json.loads(path.read_text()) if path.is_file() else {}
    own = {r["model"]["name"]: list(r["model"].get("components") or []) for r in records or []}
    return {m: own.get(m) or shipped.get(m, []) for m in models}
