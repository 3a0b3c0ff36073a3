"""Benches, splits, the graph and its guard, and what queries may read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tests.support.paths import golden, shared_data

from septet.datamodules.scenarios import (
    Bench,
    LeakageError,
    ScenarioGraph,
    assert_no_leak,
    build_graph,
    generate_scenarios,
    load_bench,
    split,
)
from septet.datamodules.scenarios.commands import main as data
from septet.datamodules.scenarios.tables import bench_of_records, table_records


@pytest.mark.parametrize("name", ["traffic_mts", "openstl", "gift_eval", "metagl"])
def test_shipped_and_full_tables_give_the_recorded_sums(name):
    spec = json.loads(golden("smap", "benches.json").read_text())[name]
    bench, full = load_bench(name), load_bench(name, shared_data("scenarios"))
    assert bench.sha256() == full.sha256() == spec["matrix_sha256"]
    assert bench.scenario == spec["scenario"]
    np.testing.assert_allclose(bench.column_features, full.column_features, atol=1e-9)


def test_unknown_benches_and_missing_tables_are_named(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'traffic_mts'"):
        load_bench("traffic")
    with pytest.raises(ValueError, match="no table"):
        load_bench("openstl", tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"models": ["a", "a"]}, "twice"),
        ({"columns": ["c", "c", "d"]}, "twice"),
        ({"group": ["g"]}, "group has 1"),
        ({"scenario": ["s"]}, "scenario has 1"),
        ({"values": np.ones((3, 3))}, "values are"),
        ({"values": -np.ones((2, 3))}, "not positive"),
        ({"kind": "loss"}, "kind is"),
        ({"column_features": np.ones((2, 1))}, "column_features"),
        ({"model_features": np.ones((3, 1))}, "model_features"),
    ],
)
def test_wrong_benches_are_refused(change, match):
    named = {
        "name": "b", "models": ["a", "b"], "columns": ["c", "d", "e"], "group": ["g"] * 3, "scenario": ["s"] * 3,
        "kind": "error", "values": np.ones((2, 3)), "column_features": np.ones((3, 1)),
    }  # fmt: skip
    with pytest.raises(ValueError, match=match):
        Bench(**{**named, **change})


def test_siblings_leave_together():
    bench = load_bench("gift_eval")
    for part in split(bench, "lodo"):
        assert not {bench.group[j] for j in part.train} & {bench.group[j] for j in part.test}
    for part in split(bench, "loso"):
        assert not {bench.group[j] for j in part.train} & {bench.group[j] for j in part.test}
        assert {bench.scenario[j] for j in part.test} == {part.name}
    assert len(split(bench, "lodo")) == 28
    assert len(split(load_bench("metagl"), "folds")) == 5
    assert all(part.cold for part in split(bench, "cold"))
    assert len(split(generate_scenarios(0), "sparse", p=0.3)[0].train) == 6
    dated = split(generate_scenarios(0), "temporal", when=list(range(24)), t=20)[0]
    assert dated.test == [20, 21, 22, 23]


def test_wrong_splits_are_refused():
    bench = generate_scenarios(0)
    for protocol, options, match in (
        ("lood", {}, "unknown protocol"), ("folds", {}, "no folds"), ("cold", {}, "no folds of models"),
        ("sparse", {"p": 0.0}, "p is 0"), ("temporal", {"when": [1], "t": 1}, "1 dates"),
        ("temporal", {"when": [5] * 24, "t": 1}, "no column to train"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            split(bench, protocol, **options)
    with pytest.raises(ValueError, match="at least 4 models"):
        generate_scenarios(0, models=2)


def test_the_graph_holds_train_results_only_and_the_guard_sees_a_leak():
    pytest.importorskip("torch_geometric")
    bench = load_bench("openstl")
    part = split(bench, "lodo")[0]
    graph = build_graph(bench, part)
    assert_no_leak(graph, bench, part)
    seen = int(np.isfinite(bench.values[:, part.train]).sum())
    assert graph["dataset", "evaluated", "model"].edge_index.shape[1] == seen
    assert graph["dataset", "evaluated", "model"].edge_attr.shape == (seen, 2)
    poisoned = bench.values.copy()
    poisoned[:, part.test] = 1e9
    other = build_graph(dataclasses.replace(bench, values=poisoned), part)
    for key in graph.edge_types:
        assert torch.equal(graph[key].edge_index, other[key].edge_index)
    leaked = torch.tensor([[part.test[0]], [0]])
    index = graph["dataset", "evaluated", "model"].edge_index
    graph["dataset", "evaluated", "model"].edge_index = torch.cat([index, leaked], 1)
    with pytest.raises(LeakageError, match="is a test result"):
        assert_no_leak(graph, bench, part)


def test_queries_never_read_their_own_group():
    module = ScenarioGraph(bench="synthetic", fold=1)
    module.setup()
    query = module.query(module.train_columns, train=True)
    group = module.memory.group
    for row, column in zip(query.allowed, query.columns, strict=True):
        assert not bool(row[group == group[column]].any())
        assert not bool(row[module.val_columns].any())
    test = module.query(module.test_columns)
    assert not bool(test.allowed[:, module.test_columns].any())
    with pytest.raises(ValueError, match="fold is 99"):
        ScenarioGraph(bench="synthetic", fold=99).setup()
    with pytest.raises(ValueError, match="val_groups is 0"):
        ScenarioGraph(bench="synthetic", val_groups=0).setup()


def test_records_become_a_bench():
    bench = bench_of_records(table_records("traffic_speed"), "traffic_speed", "mae")
    assert bench.values.shape == (25, 12)
    assert np.isfinite(bench.values).all()
    with pytest.raises(ValueError, match="no record of task 'x'"):
        bench_of_records(table_records("traffic_speed"), "x")


def test_the_data_command(tmp_path, capsys):
    assert data("verify", []) == 0
    assert "sum as recorded" in capsys.readouterr().out
    assert data("generate", ["--out", str(tmp_path / "a.npz")]) == 0
    assert data("fetch", []) == 0
    with pytest.raises(ValueError, match="unknown action"):
        data("drop", [])


def test_latency_and_acceptance_of_another_shape_are_refused():
    bench = generate_scenarios(0)
    with pytest.raises(ValueError, match="latency"):
        dataclasses.replace(bench, latency=bench.latency[:, :3])
    with pytest.raises(ValueError, match="acceptance"):
        dataclasses.replace(bench, acceptance=np.ones(3))


def test_a_bench_of_records_takes_latency_stars_and_percentages_along():
    def record(model, dataset, value, **extra):
        return {
            "scenario": {"task": "t", "metric": "map", "direction": "max", "unit": "percent"}, "value": value,
            "dataset": {"name": dataset}, "model": {"name": model}, "provenance": {"run_id": f"{model}{dataset}"},
            **extra,
        }  # fmt: skip

    rows = [
        record("a", "D", 80.0, criteria={"latency_ms_p50": 2.0, "latency_ms_p95": 9.0}, acceptance={"stars": 9}),
        record("b", "D", 60.0),
    ]
    bench = bench_of_records(rows)
    assert bench.values[:, 0].tolist() == pytest.approx([0.2, 0.4])
    assert bench.latency[0, 0] == 2.0
    assert np.isnan(bench.latency[1, 0])
    assert bench.acceptance[0] == pytest.approx(np.log(10))
