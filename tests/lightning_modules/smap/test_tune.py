"""Choosing a setting on some benches and studying it on others: what is kept, what wins, what is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from septet.datamodules.scenarios import load_bench, split
from septet.lightning_modules.smap import baselines, study, tune
from septet.lightning_modules.smap.scoring import column_metrics, evaluate, group_mean


def test_settings_on_file_are_not_measured_again(monkeypatch):
    asked = []

    def counted(name, options, seed=0, probes=0):
        asked.append((options, seed, probes))
        return {"regret1": 1.0 + seed, "ndcg5": 0.5, "tau": 0.5}

    monkeypatch.setattr(tune, "out_of_sample", counted)
    known = [{"options": options, "regret1": 2.0} for options in tune.GRID[:-2]]
    found = tune.measure("openstl", known)
    assert [options for options, _, _ in asked] == list(tune.GRID[-2:])
    assert {options["sharpness"] for options, _, _ in asked} == {0.0}
    assert [row["options"] for row in found["tried"]] == list(tune.GRID)
    probed = tune.measure("openstl", probes=5)["tried"]
    assert {row["regret1"] for row in probed} == {2.0}  # three draws: 1, 2 and 3
    assert all(row["options"]["steps"] == 0 and row["options"]["prior"] == "stack" for row in probed)


def test_the_lowest_mark_wins_and_ties_keep_the_earlier():
    files = [
        {"global_mean": 2.0, "tried": [{"options": {"a": i}, "regret1": r} for i, r in enumerate((3.0, 1.0, 1.0))]}
    ]
    assert tune.choose(files) == ({"a": 1}, [1.5, 0.5, 0.5])


def test_cold_models_are_ranked_among_those_of_their_fold():
    bench = load_bench("traffic_mts")
    found = study.study("traffic_mts", "cold", 0, 1, {}, rules=False)
    assert found["methods"] == {"SMAP": []}
    parts, rows = [], []
    for i, part in enumerate(split(bench, "cold")):
        scores = np.full(bench.values.shape, np.nan)
        scores[part.cold] = bench.values[part.cold] + 1e6 * i  # right within a fold only
        parts.append((part.test, scores))
        rows += [(bench.group[j], column_metrics(bench.values[part.cold, j], scores[part.cold, j], "error"))
                 for j in part.test]  # fmt: skip
    assert group_mean(study._rows(bench, "cold", parts))["tau"] == pytest.approx(1.0)
    assert len(study._rows(bench, "cold", parts)) == len(rows)


def test_the_study_of_a_rule_is_its_evaluation():
    bench = load_bench("openstl")
    predictions, parts = np.full(bench.values.shape, np.nan), []
    for i, part in enumerate(split(bench, "lodo")):
        parts.append(study._one(("openstl", "lodo", i, "global_mean", 0, 0, {})))
        predictions[:, part.test] = baselines.predict("global_mean", bench, part.train, part.test)
    assert group_mean(study._rows(bench, "lodo", parts)) == evaluate(bench, predictions, "lodo")


def test_named_options_win_over_chosen_ones_and_a_reported_bench_is_not_tuned_on(tmp_path, monkeypatch):
    for bench in ("openstl", "gift_eval"):
        row = {"options": {"gate": 1.0, "steps": 0}, "regret1": 1.0}
        (tmp_path / tune.file_name(bench)).write_text(json.dumps({"global_mean": 1.0, "tried": [row]}))
    taken = []

    def recorded(bench, protocol, seeds, jobs, options, rules=True, probes=0):
        taken.append((options, rules))
        return {"bench": bench, "protocol": protocol, "options": options, "smap_mean": {}, "smap_std": {},
                "methods": {}, "wall_s": 0.0}  # fmt: skip

    monkeypatch.setattr(study, "study", recorded)
    words = ["--bench", "traffic_mts", "--options", '{"steps": 30}', "--out", str(tmp_path / "out.json"), "--tuned-on"]
    assert study.main([*words, "openstl", "gift_eval", "--encoders", "none", "han"]) == 0
    assert taken == [({"gate": 1.0, "steps": 30, "encoder": e}, False) for e in ("none", "han")]
    assert set(json.loads((tmp_path / "out.json").read_text())) >= {"none", "han", "tuned_on", "load"}
    with pytest.raises(SystemExit, match="traffic_mts is reported"):
        study.main([*words, "traffic_mts"])
