"""Metrics and plain rules against the golden values; invariances."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.paths import golden

from septet.datamodules.scenarios import Bench, column_targets, generate_scenarios, load_bench, split
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.scoring import column_metrics, evaluate, group_mean, one_best_metrics


def load(name):
    return json.loads(golden("smap", name).read_text())


def array(values):
    return np.array(values, dtype=np.float64)


def close(found, expected, tolerance):
    for name, value in expected.items():
        if value is None:
            assert found[name] is None or np.isnan(found[name]), name
        else:
            assert found[name] == pytest.approx(value, abs=tolerance, rel=tolerance), name


def test_metrics_equal_the_golden_cases():
    for case in load("metric_cases.json"):
        found = column_metrics(array(case["raw"]), array(case["pred"]), case["kind"])
        if case["expected"] is None:
            assert found is None
        else:
            close(found, case["expected"], 1e-9)
    for case in load("metagl_metric_cases.json"):
        close(one_best_metrics(case["accuracy"], case["score"]), case["expected"], 1e-9)


def test_targets_equal_the_golden_ones():
    for case in load("numeric.json")["targets"]:
        z, r, _ = column_targets(array(case["values"]), case["kind"])
        np.testing.assert_allclose(z, array(case["z"]), atol=1e-9)
        np.testing.assert_allclose(r, array(case["r"]), atol=1e-9)


def _small(case):
    return Bench("small", case["models"], case["columns"], case["group"], case["scenario"], case["kind"],
                 array(case["values"]), array(case["column_features"]))  # fmt: skip


def test_small_baselines_equal_the_golden_scores():
    for case in load("baselines_small.json"):
        bench = _small(case)
        for expected in case["expected"].values():
            found = baselines.predict(expected["baseline"], bench, case["train"], case["test"], **expected["options"])
            np.testing.assert_allclose(found, array(expected["scores"]), atol=2e-8)
        for column, expected in case["probes"].items():
            for name in baselines.PROBE_NAMES:
                found = baselines.probe_predict(name, bench, case["train"], int(column), expected["probes"])
                np.testing.assert_allclose(found, array(expected[name]), atol=2e-8)


def _predicted(bench, protocol, name, options):
    predictions = np.full(bench.values.shape, np.nan)
    for part in split(bench, protocol):
        predictions[:, part.test] = baselines.predict(name, bench, part.train, part.test, **options)
    return predictions


@pytest.mark.parametrize("name", ["traffic_mts", "openstl", "gift_eval", "metagl"])
def test_baselines_of_the_shipped_benches_equal_the_golden_ones(name):
    bench = load_bench(name)
    for cell in load("baselines.json").values():
        if cell["bench"] == name:
            found = _predicted(bench, cell["protocol"], cell["baseline"], cell["options"])
            np.testing.assert_allclose(found[:, 0], array(cell["first_column"]), atol=2e-8)
            close(evaluate(bench, found, cell["protocol"]), cell["metrics"], 1e-6)


def test_probe_rules_equal_the_golden_ones():
    for case in load("probes.json").values():
        bench = load_bench(case["bench"])
        rows = {name: [] for name in case["metrics"]}
        trains = {j: part.train for part in split(bench, "lodo") for j in part.test}
        for column, probes in case["probes"]:
            for name, found in rows.items():
                scores = baselines.probe_predict(name, bench, trains[column], column, probes)
                found.append((bench.group[column], column_metrics(bench.values[:, column], scores, bench.kind)))
        for name, found in rows.items():
            close(group_mean(found), case["metrics"][name], 1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("nearest", [0], [1]), "unknown baseline"),
        (("global_best", [], [1]), "no column"),
        (("global_best", [0, 1], [1]), "in train and test"),
        (("global_best", [0], [99]), "out of range"),
    ],
)
def test_wrong_columns_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        baselines.predict(arguments[0], generate_scenarios(0), arguments[1], arguments[2])


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("knn_meta", {"k": 0}, "k is 0"),
        ("knn_shrunk", {"c": -1.0}, "c is -1"),
        ("knn_meta", {"value": "tau"}, "value is 'tau'"),
        ("mf_side", {"rank": 0}, "rank is 0"),
        ("mf_side", {"ridge": 0.0}, "ridge is 0"),
        ("global_best", {"k": 3}, "no option"),
    ],
)
def test_wrong_options_are_refused(name, options, match):
    with pytest.raises(ValueError, match=match):
        baselines.predict(name, generate_scenarios(0), [0, 1, 2], [5], **options)


def test_wrong_probes_are_refused():
    bench = generate_scenarios(0)
    for probes, match in (([], "at least one"), ([1, 1], "at least one"), ([99], "out of range")):
        with pytest.raises(ValueError, match=match):
            baselines.probe_predict("knn_probe", bench, [0, 1], 5, probes)
    with pytest.raises(ValueError, match="unknown probe rule"):
        baselines.probe_predict("best", bench, [0, 1], 5, [1])


@pytest.mark.parametrize(
    ("raw", "pred", "kind", "match"),
    [
        ([1, 2, 3], [1, 2], "error", "one length"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "loss", "kind is"),
        ([1, 2, -3, 4], [1, 2, 3, 4], "error", "not positive"),
        ([1, 2, 3, 4], [1, 2, float("nan"), 4], "error", "NaN for model 2"),
    ],
)
def test_metrics_refuse_wrong_input(raw, pred, kind, match):
    with pytest.raises(ValueError, match=match):
        column_metrics(raw, pred, kind)


def test_permutations_permute_and_scaling_changes_nothing():
    bench = generate_scenarios(3)
    rng = np.random.default_rng(0)
    rows, train, test = rng.permutation(20), list(range(9)), [12, 15]
    scale = rng.uniform(0.1, 10, size=24)
    other = Bench("b", [bench.models[i] for i in rows], bench.columns, bench.group, bench.scenario, "error",
                  bench.values[rows] * scale, bench.column_features)  # fmt: skip
    for name in baselines.NAMES[:6]:
        first = baselines.predict(name, bench, train, test)
        second = baselines.predict(name, other, train[::-1], test)
        np.testing.assert_allclose(second, first[rows], atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=12, unique=True), st.randoms())
def test_monotone_maps_of_predictions_change_no_rank_metric(raw, random):
    pred = [round(random.uniform(-1, 1), 3) for _ in raw]
    first, second = column_metrics(raw, pred, "error"), column_metrics(raw, np.exp(array(pred)), "error")
    for name in ("regret1", "ndcg5", "tau", "top3"):
        assert first[name] == second[name] or first[name] == pytest.approx(second[name])


@pytest.mark.slow
def test_lightgbm_is_near_its_measured_values():
    pytest.importorskip("lightgbm")
    bench = load_bench("traffic_mts")
    found = evaluate(bench, _predicted(bench, "lodo", "lgbm_reg", {}), "lodo")
    assert found["regret1"] == pytest.approx(0.996, abs=0.15)


def test_evaluate_refuses_a_wrong_shape():
    with pytest.raises(ValueError, match="predictions are"):
        evaluate(generate_scenarios(0), np.zeros((2, 2)), "lodo")
