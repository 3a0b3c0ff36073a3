"""Models without any result: rules by features, their stack as prior, and what never reaches them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from septet.datamodules.scenarios import ScenarioGraph, generate_scenarios, load_bench, split
from septet.lightning_modules.smap import SMAP, baselines, cold, fit_predict
from septet.lightning_modules.smap.model import level
from septet.lightning_modules.smap.scoring import column_metrics, group_mean

PLAIN = ["knn_model", "ridge_model"]
FAST = {"steps": 4, "ensemble": 1, "hidden": 16, "heads": 2}


@pytest.fixture(autouse=True)
def _without_lightgbm(monkeypatch):
    monkeypatch.setattr(cold, "names_here", lambda: PLAIN)


@pytest.mark.parametrize("poison", [1e9, np.nan])
def test_poisoned_cold_rows_leave_predictions_bit_equal(poison):
    bench = generate_scenarios(1)
    part = split(bench, "cold", folds=4)[0]
    values = bench.values.copy()
    values[part.cold] = poison
    other = dataclasses.replace(bench, values=values)
    assert np.array_equal(fit_predict(bench, part, **FAST), fit_predict(other, part, **FAST))
    for name in PLAIN:
        assert np.array_equal(cold.predict(name, bench, part.cold), cold.predict(name, other, part.cold))


def test_a_warm_model_is_ranked_without_its_own_results():
    bench = generate_scenarios(1)
    part = split(bench, "cold", folds=4)[0]
    warm = [m for m in range(20) if m not in part.cold]
    values = bench.values.copy()
    values[warm[0]] = values[warm[0]].max() * 5  # the worst everywhere: its own expected ranks may not know
    fold = warm[0 :: cold._FOLDS]
    one, two = (cold.stacked(dataclasses.replace(bench, values=v), part.cold) for v in (bench.values, values))
    assert np.isfinite(one.scores).all()
    rest = [m for m in warm if m not in fold]
    single = [cold.predict("knn_model", dataclasses.replace(bench, values=v), [*part.cold, *fold])[-len(fold) :][0]
              for v in (bench.values, values)]  # fmt: skip
    assert np.array_equal(*single)
    assert not np.array_equal(one.scores[rest], two.scores[rest])


def test_features_rank_cold_models_of_the_generated_table():
    rows, bench = [], generate_scenarios(1)
    for part in split(bench, "cold", folds=4):
        scores = fit_predict(bench, part, **{**FAST, "steps": 0})
        rows += [(bench.group[j], column_metrics(bench.values[part.cold, j], scores[part.cold, j], "error"))
                 for j in part.test]  # fmt: skip
    assert group_mean(rows)["tau"] > 0.2


def test_rules_that_know_models_by_results_give_cold_ones_one_score():
    bench = load_bench("traffic_mts")
    part = split(bench, "cold")[0]
    values = bench.values.copy()
    values[part.cold] = np.nan
    bench = dataclasses.replace(bench, values=values)
    for name in ("global_best", "global_mean", "scenario_best", "knn_meta", "knn_shrunk", "mf_side"):
        scores = baselines.predict(name, bench, list(range(3, 24)), [0, 1, 2])[part.cold]
        assert np.ptp(scores, axis=0).max() == 0, name


def test_a_run_on_a_cold_split_takes_the_same_prior():
    data = ScenarioGraph(bench="synthetic", protocol="cold", cold_folds=4)
    data.setup()
    module = SMAP(hidden=16, heads=2)
    module.add_prior(data.memory, data.bench, data.part)
    assert data.memory.stack is None
    assert bool(torch.isfinite(data.memory.cold).all())
    assert set(module.stack_weights) == set(PLAIN)


def test_levels_are_quantiles_of_the_known():
    prior, rank = torch.tensor([[0.0, 9.0, 2.0, 4.0]]), torch.tensor([[0.5, 0.75, -1.0, torch.nan]])
    known = torch.tensor([[True, False, True, True]])
    assert level(prior, rank, known).tolist() == [[2.0, 3.0, 0.0, 0.0]]
    assert torch.equal(level(prior, rank, torch.zeros(1, 4, dtype=torch.bool)), prior)


@pytest.mark.parametrize(
    ("name", "rows", "options", "match"),
    [
        ("mf_side", [0], {}, "unknown rule 'mf_side'"), ("knn_model", [], {}, "some but not all"),
        ("knn_model", list(range(20)), {}, "some but not all"), ("knn_model", [20], {}, "some but not all"),
        ("knn_model", [0], {"k": 0}, "k is 0"), ("ridge_model", [0], {"ridge": 0.0}, "ridge is 0.0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(name, rows, options, match):
    with pytest.raises(ValueError, match=match):
        cold.predict(name, generate_scenarios(1), rows, **options)


def test_without_features_nothing_is_known_of_a_cold_model():
    bench = dataclasses.replace(generate_scenarios(1), model_features=None)
    with pytest.raises(ValueError, match="no model features"):
        cold.predict("knn_model", bench, [0])
