"""The recommender itself: leakage, repeatability, encoders, wrong arguments."""

from __future__ import annotations

import dataclasses

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from septet.datamodules.scenarios import ScenarioGraph, generate_scenarios, split
from septet.datamodules.scenarios.tensors import Query, allowed_columns, build_memory
from septet.lightning_modules.smap import SMAP, fit_predict, stack
from septet.lightning_modules.smap.metrics import AssignmentMetrics
from septet.lightning_modules.smap.scoring import evaluate

PLAIN = [name for name in stack.RULES if not name.startswith("lgbm")]
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
        predictions[:, part.test] = fit_predict(bench, part, steps=30, ensemble=1, hidden=16, heads=2, prior="mean")
    assert evaluate(bench, predictions, "lodo")["tau"] > 0.3


@pytest.mark.parametrize("prior", ["mean", "stack"])
def test_permuted_models_permute_the_scores_and_scaled_columns_change_nothing(prior, monkeypatch):
    monkeypatch.setattr(stack, "rules_for", lambda bench: PLAIN)  # LightGBM's histograms depend on the order of rows
    bench = generate_scenarios(1)
    part = split(bench, "lodo")[0]
    rows, scale = np.random.default_rng(0).permutation(20), np.random.default_rng(1).uniform(0.1, 10, 24)
    other = dataclasses.replace(
        bench, models=[bench.models[i] for i in rows], values=bench.values[rows] * scale,
        model_features=bench.model_features[rows], latency=None,
    )  # fmt: skip
    options = {"steps": 0, "ensemble": 1, "hidden": 16, "heads": 2, "prior": prior}
    first, second = fit_predict(bench, part, **options)[rows], fit_predict(other, part, **options)
    assert np.abs(first - second).max() < 2e-5


def test_the_latency_and_acceptance_heads_learn_where_records_carry_both():
    bench = dataclasses.replace(generate_scenarios(1), acceptance=np.r_[np.linspace(0, 5, 19), np.nan])
    part = split(bench, "lodo")[0]
    module = SMAP(hidden=16, heads=2)
    memory = build_memory(bench, part)
    module.add_prior(memory, bench, part)
    torch.manual_seed(0)
    module.build(memory.shape)
    train = torch.tensor(part.train)
    query = Query(memory, train, allowed_columns(memory, train), torch.empty(0))
    before = module.loss_terms(query, 0)
    before["loss"].backward()
    heads = (module.net.latency_head[0].weight, module.net.acceptance_head.weight)
    assert all(float(w.grad.abs().sum()) > 0 for w in heads)
    assert bool(torch.isnan(memory.latency[part.test]).all())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        terms = module.loss_terms(query, 0)
        terms["loss"].backward()
        optimizer.step()
    assert float(terms["latency"].detach()) < 0.5 * float(before["latency"].detach())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prior": "best"}, "prior is"), ({"criterion": "tau"}, "criterion is"), ({"sharpness": -1.0}, "sharpness is"),
        ({"steps": -1}, "steps is"),
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


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*", "ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_a_run_logs_what_moves_and_times_its_scores(tmp_path):
    data = ScenarioGraph(bench="synthetic", protocol="cold", cold_folds=4)
    module = SMAP(hidden=16, heads=2, prior="mean")
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    seen = []
    module.on_validation_end = lambda: seen.append(float(trainer.callback_metrics["val/loss"]))
    trainer.fit(module, datamodule=data)
    assert len(set(seen[-3:])) == 3
    trainer.test(module, datamodule=data, verbose=False)
    criteria = module.record_fields()["criteria"]
    assert 0 < criteria["latency_ms_p50"] <= criteria["latency_ms_p95"]
    assert np.isfinite(float(trainer.callback_metrics["test/tau"]))
