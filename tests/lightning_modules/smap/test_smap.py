"""The recommender itself: leakage, repeatability, encoders, wrong arguments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from septet.datamodules.scenarios import generate_scenarios, split
from septet.lightning_modules.smap import SMAP, fit_predict
from septet.lightning_modules.smap.metrics import AssignmentMetrics
from septet.lightning_modules.smap.scoring import evaluate

FAST = {"steps": 6, "ensemble": 1, "hidden": 16, "heads": 2}


@pytest.mark.parametrize("poison", [1e9, np.nan])
def test_poisoned_test_cells_leave_predictions_bit_equal(poison):
    bench = generate_scenarios(1)
    part = split(bench, "lodo")[2]
    values = bench.values.copy()
    values[:, part.test] = poison
    first = fit_predict(bench, part, **FAST)
    assert np.array_equal(first, fit_predict(dataclasses.replace(bench, values=values), part, **FAST))
    assert first.shape == (20, len(part.test))
    assert np.isfinite(first).all()


def test_another_seed_is_another_prediction_and_global_randomness_is_left_alone():
    bench = generate_scenarios(1)
    part = split(bench, "lodo")[0]
    state = torch.random.get_rng_state()
    assert not np.array_equal(fit_predict(bench, part, seed=0, **FAST), fit_predict(bench, part, seed=1, **FAST))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("encoder", ["hgt", "han"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_graph_encoders_train_and_do_not_leak(encoder):
    pytest.importorskip("torch_geometric")
    bench = generate_scenarios(1)
    part = split(bench, "lodo")[0]
    values = bench.values.copy()
    values[:, part.test] = 1e9
    first = fit_predict(bench, part, encoder=encoder, **FAST)
    assert np.array_equal(first, fit_predict(dataclasses.replace(bench, values=values), part, encoder=encoder, **FAST))


def test_a_model_without_records_leaves_the_order_of_the_others():
    bench = generate_scenarios(2)
    part = split(bench, "lodo")[0]
    values = bench.values.copy()
    values[4] = np.nan
    found = fit_predict(dataclasses.replace(bench, values=values), part, **FAST)
    assert np.isfinite(found).all()


def test_recall_learns_more_than_the_mean_on_generated_tables():
    bench = generate_scenarios(0)
    predictions = np.full(bench.values.shape, np.nan)
    for part in split(bench, "lodo")[:3]:
        predictions[:, part.test] = fit_predict(bench, part, steps=60, ensemble=1, hidden=16, heads=2)
    assert evaluate(bench, predictions, "lodo")["tau"] > 0.3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"encoder": "gat"}, "unknown encoder"), ({"features": "all"}, "features is"), ({"tau": 0.0}, "tau is"),
        ({"hidden": 10, "heads": 4}, "not a multiple"), ({"hide_models": 1.0}, "hide_models"),
        ({"loss_weights": [1.0]}, "loss_weights"), ({"ensemble": 0}, "ensemble is"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        SMAP(**options)


def test_the_metric_is_the_mean_within_groups_then_over_groups():
    bench = generate_scenarios(5)
    scores = torch.randn(20, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    names = list(dict.fromkeys(bench.group))
    metric = AssignmentMetrics("error")
    for columns in (range(12), range(12, 24)):
        c = list(columns)
        metric.update(
            scores[:, c], torch.tensor(bench.values[:, c]), torch.tensor([names.index(bench.group[j]) for j in c])
        )
    expected = evaluate(bench, scores.numpy(), "lodo")
    for name, value in metric.compute().items():
        assert value == pytest.approx(expected[name])
