"""A few results of the column asked for: which models to measure, and a stack of the rules that use them. No torch.

The stack is that of :mod:`stack`, one step on: every train column is ranked by each probe rule from probes drawn on it
and from columns of other groups, and the weights come from those rankings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.stack import _LOSSES, Stack, _losses, _ranks, _weights, content_key, stacked

Array = NDArray[np.float64]
Probes = Mapping[int, Sequence[int]]
RULES = (*baselines.PROBE_NAMES, "stack_probes")
_DRAWS = 2
"""Draws of probes per train column of the inner cross-validation."""
_SEEN: dict[str, dict[int, tuple[list[int], Array]]] = {}


def draw(bench: Bench, train: Sequence[int], column: int, k: int, seed: int = 0) -> list[int]:
    """Models to measure on a column: half of them (rounded up) among the best quarter by ``global_best``, then any.

    Args:
        bench: the table; of the test column only which models have a result is read.
        train: columns whose results may be used.
        column: the test column.
        k: at most so many models.
        seed: of the draw.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least one probe")
    g = baselines.predict("global_best", bench, train, [column])[:, 0]
    able = [int(m) for m in np.argsort(g, kind="stable") if np.isfinite(bench.values[m, column])]
    rng = np.random.default_rng([seed, column, k])
    best = able[: max(len(able) // 4, math.ceil(k / 2))]
    first = rng.permutation(best)[: math.ceil(k / 2)].tolist()
    rest = rng.permutation([m for m in able if m not in first])[: k - len(first)].tolist()
    return sorted(int(m) for m in first + rest)


def check(bench: Bench, part: Split, probes: Probes) -> None:
    """Refuse probes that do not fit.

    Raises:
        ValueError: a cold split, a column that is not tested, no model, one twice, out of range or without a result.
    """
    if part.cold:
        raise ValueError("probes are results of test columns; a cold split hides models, not columns")
    for column, models in probes.items():
        if column not in part.test:
            raise ValueError(f"probes name column {column}; the test columns of {part.name!r} are {part.test}")
        baselines.check_probes(bench, column, models)


def order_revealed(scores: Array, bench: Bench, test: Sequence[int], probes: Probes) -> Array:
    """Scores ``(M, len(test))`` with those of the probed models dealt in the order of their results."""
    found = scores.copy()
    for column, models in probes.items():
        place, (chosen, revealed) = list(test).index(column), baselines.check_probes(bench, column, models)
        found[:, place] = baselines._deal(found[:, place], chosen, revealed)
    return found


def with_probes(
    bench: Bench, part: Split, probes: Probes, *, criterion: str = "regret", sharpness: float = 1.0
) -> Stack:
    """The stack of plain rules on all columns, on probed ones that of the probe rules.

    Args:
        bench: the table; only train columns and the probed cells are read.
        part: columns to train on and to rank.
        probes: {test column: models measured there}.
        criterion: inner loss, as of :func:`stack.stacked`.
        sharpness: of the weights.

    Raises:
        ValueError: as of :func:`stack.stacked` and :func:`check`.
    """
    check(bench, part, probes)
    train = part.train
    base = stacked(bench, train, part.test, criterion=criterion, sharpness=sharpness)
    clean = visible(bench, train, probes)
    scores, weights, losses = base.scores.copy(), dict(base.weights), dict(base.loss)
    for k in sorted({len(models) for models in probes.values()}):
        tables = []
        for seed in range(_DRAWS):
            ranks = _inner(bench, train, base.scores, k, seed)
            usable = [j for j in train if np.isfinite(ranks[:, :, j]).all()]
            consensus = np.round(ranks.mean(0), 9)
            tables.append([_losses(bench, usable, rank, consensus, _LOSSES[criterion]) for rank in ranks])
        table = np.mean(tables, axis=0)
        found = _weights(table, sharpness)
        weights = dict(zip(RULES, map(float, found), strict=True))
        losses = dict(zip(RULES, map(float, table.mean(1) if table.size else np.zeros(len(RULES))), strict=True))
        for column, models in probes.items():
            if len(models) == k:
                own = _rule_scores(clean, list(train), column, models)
                dealt = _dealt(clean, column, models, base.scores[:, column])
                scores[:, column] = np.round(found @ np.vstack([own, dealt]), 9)
    return Stack(scores, weights, losses)


def visible(bench: Bench, train: Sequence[int], probes: Probes) -> Bench:
    """The table with train columns and probed cells only."""
    values = np.full_like(bench.values, np.nan)
    values[:, list(train)] = bench.values[:, list(train)]
    for column, models in probes.items():
        values[list(models), column] = bench.values[list(models), column]
    return dataclasses.replace(bench, values=values)


def _rule_scores(bench: Bench, train: list[int], column: int, probes: Sequence[int]) -> Array:
    """Ranks ``(R - 1, M)`` by each rule but the stack."""
    found = [baselines.probe_predict(name, bench, train, column, probes) for name in baselines.PROBE_NAMES]
    return _ranks(np.column_stack(found)).T


def _dealt(bench: Bench, column: int, probes: Sequence[int], base: Array) -> Array:
    """Ranks ``(M,)`` by the stack with the probed models' places dealt by their results."""
    return _ranks(baselines._deal(base, *baselines.check_probes(bench, column, probes))[:, None])[:, 0]


def _inner(bench: Bench, train: Sequence[int], base: Array, k: int, seed: int) -> Array:
    """Ranks ``(R, M, C)`` of train columns from probes on them and columns of other groups; NaN elsewhere."""
    clean = visible(bench, train, {})
    key = content_key(clean, list(train), k, seed)
    if key not in _SEEN:
        while len(_SEEN) >= 64:
            _SEEN.pop(next(iter(_SEEN)))
        found: dict[int, tuple[list[int], Array]] = {}
        for j in train:
            others = [i for i in train if bench.group[i] != bench.group[j]]
            if others and np.isfinite(clean.values[:, j]).sum() >= 4:
                probes = draw(clean, others, j, k, seed)
                found[j] = probes, _rule_scores(clean, others, j, probes)
        _SEEN[key] = found
    ranks = np.full((len(RULES), *bench.values.shape), np.nan)
    for j, (probes, known) in _SEEN[key].items():
        if np.isfinite(base[:, j]).all():
            ranks[:-1, :, j], ranks[-1, :, j] = known, _dealt(clean, j, probes, base[:, j])
    return ranks
