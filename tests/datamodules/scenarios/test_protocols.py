"""Every protocol of the DataModule, and what a cold test counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from septet.datamodules.scenarios import ScenarioGraph, generate_scenarios, split
from septet.lightning_modules.smap.scoring import column_metrics, evaluate


def loaded(**given):
    data = ScenarioGraph(bench="synthetic", **given)
    data.setup()
    return data


def test_a_cold_test_counts_cold_models_and_validation_the_others():
    data = loaded(protocol="cold", cold_folds=4)
    cold = np.isin(np.arange(20), data.part.cold)
    assert len(data.part.cold) == 5
    (test,) = data.test_dataloader()
    assert np.array_equal(np.isfinite(test.raw.numpy()).all(1), cold)
    assert not np.isfinite(test.raw.numpy()[~cold]).any()
    (val,) = data.val_dataloader()
    assert np.array_equal(np.isfinite(val.raw.numpy()).any(1), ~cold)
    assert not data.memory.seen[:, data.part.cold].any()
    assert bool(torch.equal(test.allowed.all(0), data.memory.seen.any(1)))
    assert np.isfinite(data.bench.values).all()


def test_cold_metrics_are_over_cold_rows_only():
    bench = generate_scenarios(0)
    part = split(bench, "cold", folds=4)[0]
    scores = np.full(bench.values.shape, np.nan)
    scores[part.cold] = -bench.values[part.cold]  # the wrong way round
    assert evaluate(bench, scores, "cold")["tau"] == pytest.approx(-1.0)
    row = column_metrics(bench.values[part.cold, 0], scores[part.cold, 0], "error")
    assert row["n"] == 5


def test_named_folds_dealt_folds_and_unknown_models():
    bench = generate_scenarios(0)
    dealt = split(bench, "cold", folds=4, seed=1)
    assert sorted(i for part in dealt for i in part.cold) == list(range(20))
    assert split(bench, "cold", folds=[["model03"]])[0].cold == [3]
    for folds, match in ((None, "cold_folds"), (1, "folds is 1"), ([["nobody"]], "folds name the model 'nobody'")):
        with pytest.raises(ValueError, match=match):
            split(bench, "cold", folds=folds)


def test_sparse_keeps_a_share_of_the_train_columns():
    assert len(loaded(protocol="sparse", share=0.5).part.train) < len(loaded().part.train)
    with pytest.raises(ValueError, match="p is 2"):
        loaded(protocol="sparse", share=2)


def test_a_scenario_can_be_left_out_where_data_sets_have_one_each():
    assert loaded(protocol="loso", generator={"nested": True}).part.name == "horizon0"
    with pytest.raises(ValueError, match=r"generator \{nested: 1\}"):
        loaded(protocol="loso")


def test_temporal_trains_on_what_was_measured_before(tmp_path):
    rows = [
        {"scenario": {"task": "t", "metric": "mae", "direction": "min"}, "dataset": {"name": f"d{d}"},
         "model": {"name": f"m{m}"}, "value": 1.0 + m + 0.1 * d,
         "provenance": {"run_id": f"{d}{m}", "when": f"2026-0{1 + d}-01"}}
        for d in range(5) for m in range(5)
    ]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = ScenarioGraph(bench="records", records=str(path), protocol="temporal", before="2026-04-01")
    data.setup()
    assert [len(data.part.train), len(data.part.test)] == [3, 2]
    with pytest.raises(ValueError, match="needs a date"):
        ScenarioGraph(bench="records", records=str(path), protocol="temporal").setup()
    with pytest.raises(ValueError, match="carries no dates"):
        loaded(protocol="temporal", before="2026-04-01")


def test_too_few_data_sets_get_a_remedy():
    with pytest.raises(ValueError, match="give records of 3 data sets"):
        loaded(generator={"groups": 2})


def test_a_record_names_the_part_so_that_no_mean_is_compared_with_it():
    data = loaded()
    assert data.record_dataset() == {"name": "synthetic/lodo/set0", "group": "synthetic", "split": "lodo/set0"}
