"""Group-safe splits: columns that share a data set leave together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from septet.datamodules.scenarios.bench import Bench

_REMEDY = {
    "loso": ": every data set has results of that scenario; use lodo (generated: generator {nested: 1})",
    "lodo": ": results on at least two data sets are needed",
    "temporal": ": choose another date",
}
PROTOCOLS = ("lodo", "loso", "cold", "folds", "sparse", "temporal")


@dataclass(frozen=True)
class Split:
    """One train/test division of a bench.

    Attributes:
        name: of the group, scenario or fold left out.
        train: column numbers whose results may be used.
        test: column numbers to predict.
        cold: models whose results are hidden everywhere (rows).
    """

    name: str
    train: list[int]
    test: list[int]
    cold: list[int] = field(default_factory=list)


def _lodo(bench: Bench) -> list[Split]:
    return [
        Split(g, [j for j, h in enumerate(bench.group) if h != g], [j for j, h in enumerate(bench.group) if h == g])
        for g in dict.fromkeys(bench.group)
    ]


def _loso(bench: Bench) -> list[Split]:
    found = []
    for name in dict.fromkeys(bench.scenario):
        test = [j for j, s in enumerate(bench.scenario) if s == name]
        groups = {bench.group[j] for j in test}
        train = [j for j, s in enumerate(bench.scenario) if s != name and bench.group[j] not in groups]
        found.append(Split(name, train, test))
    return found


def _folds(bench: Bench) -> list[Split]:
    folds: Sequence[Sequence[Any]] = bench.folds or []
    if not folds or not all(isinstance(j, int | np.integer) for fold in folds for j in fold):
        raise ValueError(f"bench {bench.name!r} has no folds of columns; use lodo or loso")
    columns = range(len(bench.columns))
    return [
        Split(f"fold{i}", [j for j in columns if j not in set(f)], [int(j) for j in f]) for i, f in enumerate(folds)
    ]


def _cold(bench: Bench, folds: Sequence[Sequence[str]] | int | None = None, seed: int = 0) -> list[Split]:
    if isinstance(folds, int):
        if not 2 <= folds <= len(bench.models) // 2:
            raise ValueError(f"folds is {folds}; between 2 and half of the {len(bench.models)} models")
        order = np.random.default_rng(seed).permutation(len(bench.models))
        folds = [[bench.models[i] for i in sorted(part)] for part in np.array_split(order, folds)]
    chosen: Sequence[Sequence[Any]] = folds if folds is not None else bench.folds or []
    if not chosen or not all(isinstance(m, str) for fold in chosen for m in fold):
        raise ValueError(
            f"bench {bench.name!r} has no folds of models; give folds=5 or folds=[[model names], ...] "
            "(--data.init_args.cold_folds)"
        )
    rows = {m: i for i, m in enumerate(bench.models)}
    unknown = next((m for fold in chosen for m in fold if m not in rows), None)
    if unknown is not None:
        raise ValueError(f"folds name the model {unknown!r}, which bench {bench.name!r} has not")
    columns = list(range(len(bench.columns)))
    return [Split(f"models{i}", columns, columns, [rows[m] for m in fold]) for i, fold in enumerate(chosen)]


def _sparse(bench: Bench, p: float, seed: int = 0) -> list[Split]:
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}; the kept share of train columns lies in (0, 1]")
    rng = np.random.default_rng(seed)
    found = []
    for part in _lodo(bench):
        count = max(1, round(p * len(part.train)))
        kept = sorted(int(j) for j in rng.choice(part.train, size=count, replace=False))
        found.append(Split(part.name, kept, part.test))
    return found


def _temporal(bench: Bench, when: Sequence[Any], t: Any) -> list[Split]:
    if len(when) != len(bench.columns):
        raise ValueError(f"when has {len(when)} dates for {len(bench.columns)} columns")
    train = [j for j, date in enumerate(when) if date < t]
    return [Split(f"before {t}", train, [j for j in range(len(when)) if j not in set(train)])]


def split(bench: Bench, protocol: str, **options: Any) -> list[Split]:
    """All splits of a protocol, in order of first occurrence.

    Args:
        bench: the table.
        protocol: ``lodo`` (a group out), ``loso`` (a scenario out, and every column of its groups), ``cold`` (models
            out), ``folds`` (given column folds), ``sparse`` (lodo with a share ``p`` of the train columns),
            ``temporal`` (columns dated before ``t``; ``when`` holds a date per column).
        options: of the protocol.

    Raises:
        ValueError: unknown protocol, wrong options, or nothing left to train on.
    """
    functions: tuple[Callable[..., list[Split]], ...] = (_lodo, _loso, _cold, _folds, _sparse, _temporal)
    makers = dict(zip(PROTOCOLS, functions, strict=True))
    if protocol not in makers:
        raise ValueError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    found = makers[protocol](bench, **options)
    for part in found:
        if not part.train or not part.test:
            raise ValueError(f"{protocol} of bench {bench.name!r}: {part.name!r} leaves no column to "
                             f"{'train on' if not part.train else 'test'}{_REMEDY.get(protocol, '')}")  # fmt: skip
    return found
