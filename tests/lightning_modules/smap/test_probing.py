"""A few results of the test column: drawn, used, and nothing beside them read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from septet.datamodules.scenarios import generate_scenarios, load_bench, split
from septet.lightning_modules.smap import baselines, fit_predict, probing, stack

PLAIN = [name for name in stack.RULES if not name.startswith("lgbm")]
FAST = {"steps": 3, "ensemble": 1, "hidden": 16, "heads": 2}


@pytest.fixture(autouse=True)
def _without_lightgbm(monkeypatch):
    monkeypatch.setattr(stack, "rules_for", lambda bench: PLAIN)


def _case(k=4):
    bench = generate_scenarios(1)
    part = split(bench, "lodo")[2]
    return bench, part, {j: probing.draw(bench, part.train, j, k) for j in part.test}


@pytest.mark.parametrize("poison", [1e9, np.nan])
def test_poisoned_cells_that_are_not_revealed_leave_predictions_bit_equal(poison):
    bench, part, probes = _case()
    values = bench.values.copy()
    for j, models in probes.items():
        values[[m for m in range(20) if m not in models], j] = poison
    first = fit_predict(bench, part, probes=probes, **FAST)
    again = fit_predict(dataclasses.replace(bench, values=values), part, probes=probes, **FAST)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)


def test_probed_models_keep_the_order_of_their_results_and_others_move():
    bench, part, probes = _case()
    first, blind = fit_predict(bench, part, probes=probes, **FAST), fit_predict(bench, part, **FAST)
    for place, j in enumerate(part.test):
        order = sorted(probes[j], key=lambda m: bench.values[m, j])
        assert np.all(np.diff(first[order, place]) >= 0)
    assert not np.array_equal(first, blind)
    assert np.array_equal(fit_predict(bench, part, probes={}, **FAST), blind)


def test_a_column_does_not_read_the_probes_of_another():
    bench, part, probes = _case()
    one = part.test[0]
    alone = fit_predict(bench, part, probes={one: probes[one]}, **FAST)
    assert np.array_equal(alone[:, 0], fit_predict(bench, part, probes=probes, **FAST)[:, 0])


def test_probes_are_seeded_half_good_and_have_results():
    bench = load_bench("openstl")
    part = split(bench, "lodo")[0]
    j = part.test[0]
    g = baselines.predict("global_best", bench, part.train, [j])[:, 0]
    able = [m for m in np.argsort(g, kind="stable") if np.isfinite(bench.values[m, j])]
    for seed in range(20):
        found = probing.draw(bench, part.train, j, 3, seed)
        assert found == probing.draw(bench, part.train, j, 3, seed)
        assert len(set(found)) == 3
        assert np.isfinite(bench.values[found, j]).all()
        assert sum(m in able[: len(able) // 4] for m in found) >= 2
    assert len({tuple(probing.draw(bench, part.train, j, 3, seed)) for seed in range(20)}) > 10


def test_the_weights_of_the_probe_rules_sum_to_one_and_no_train_column_changes():
    bench, part, probes = _case()
    found = probing.with_probes(bench, part, probes)
    assert set(found.weights) == set(probing.RULES)
    assert sum(found.weights.values()) == pytest.approx(1)
    plain = stack.stacked(bench, part.train, part.test)
    assert np.array_equal(found.scores[:, part.train], plain.scores[:, part.train])


def test_wrong_probes_are_refused():
    bench, part, _ = _case()
    column = part.test[0]
    for probes, match in (
        ({part.train[0]: [1]}, "not|test columns of"), ({column: []}, "at least one"), ({column: [1, 1]}, "each once"),
        ({column: [20]}, "out of range"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            fit_predict(bench, part, probes=probes, **FAST)
    cold = split(bench, "cold", folds=4)[0]
    with pytest.raises(ValueError, match="hides models, not columns"):
        fit_predict(bench, cold, probes={0: [1]}, **FAST)
    with pytest.raises(ValueError, match="at least one probe"):
        probing.draw(bench, part.train, column, 0)
