"""A candidate is a model on a data set: its own cost binds, the data set asked for decides, comparisons are honest."""

from __future__ import annotations

import json

import pytest

from septet.launch.assign import main
from septet.launch.errors import UsageError

SPEED = ["--task", "traffic_speed", "--metric", "mae", "--ledger", "none", "--horizon", "60 min"]


def ask(capsys, *words):
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def toy(model, dataset, value, run=None, **extra):
    return {
        "scenario": {"task": "toy", "metric": "mae", "direction": "min"}, "dataset": {"name": dataset},
        "model": {"name": model}, "value": value, "provenance": {"run_id": run or f"{model}-{dataset}", "seed": 0},
        **extra,
    }  # fmt: skip


@pytest.fixture
def question(tmp_path, capsys):
    def asked(rows, *words):
        path = tmp_path / "toy.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        given = ["--task", "toy", "--metric", "mae", "--tables", "none", "--ledger", "none", "--records", str(path)]
        return ask(capsys, *given, *words)

    return asked


def grid(values=(1.0, 2.0, 3.0), sets=4):
    return [toy(f"m{i}", f"d{j}", v + j) for j in range(sets) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("words", "reason", "relaxation"),
    [
        (["--datasets", "pemsd7l", "--models", "himnet", "--max-latency-ms", "5"], "latency 62.5059 > 5",
         ("max_latency_ms", 62.505928854)),
        (["--datasets", "pemsd7l", "--models", "stnorm", "--max-params", "400000"], "params 643084 > 400000",
         ("max_params", 643084.0)),
    ],
)  # fmt: skip
def test_the_candidates_own_cost_binds_and_the_relaxation_admits_it(capsys, words, reason, relaxation):
    code, answer = ask(capsys, *SPEED, *words)
    assert code == 3
    assert any(r["reason"].startswith(reason) for r in answer["rejected"])
    assert (answer["relaxation"]["limit"], answer["relaxation"]["value"]) == relaxation


def test_a_model_is_not_refused_for_its_cost_elsewhere(capsys):
    code, answer = ask(capsys, *SPEED, "--datasets", "pemsbay", "--models", "stnorm", "--max-params", "300000")
    assert (code, answer["choices"][0]["assumed"]) == (0, [])
    code, answer = ask(capsys, *SPEED, "--datasets", "metrla", "--models", "staeformer", "--max-latency-ms", "1.5")
    assert (code, round(answer["choices"][0]["latency_ms"], 2)) == (0, 1.17)


def test_a_model_wide_figure_is_used_only_where_the_candidate_has_none_and_is_said(question):
    rows = grid()
    rows[0]["criteria"] = {"latency_ms_p95": 9.0}
    code, answer = question(rows, "--datasets", "d1", "--max-latency-ms", "10")
    assert (code, [c["model"] for c in answer["choices"]], answer["choices"][0]["assumed"]) == (0, ["m0"], ["latency"])
    code, answer = question(rows, "--datasets", "d1", "--models", "m0", "--max-latency-ms", "5")
    assert code == 3
    assert "latency 9 > 5 (max_latency_ms, median over the model's records)" in {
        r["reason"] for r in answer["rejected"]
    }


def test_the_implausible_parameters_of_dcrnn_are_unknown(capsys):
    _, answer = ask(capsys, *SPEED, "--max-params", "200000")
    assert {r["reason"] for r in answer["rejected"] if r["model"] == "dcrnn"} == {"params unknown"}


def test_the_asked_data_set_decides(capsys):
    words = ["--task", "traffic_flow", "--metric", "mae", "--ledger", "none", "--horizon", "30 min"]
    _, answer = ask(capsys, *words, "--datasets", "PEMS08", "--top", "25")
    values = [c["predicted"] for c in answer["choices"]]
    assert answer["choices"][0]["model"] == "staeformer"
    assert values == sorted(values)


def test_mixed_horizons_are_shown_and_said(capsys):
    _, answer = ask(capsys, *SPEED[:-2], "--datasets", "metrla")
    assert all(c["place"]["horizon"].endswith("min") for c in answer["choices"])
    assert any("3 values of horizon" in note for note in answer["notes"])
    _, answer = ask(capsys, *SPEED, "--datasets", "metrla")
    assert not any("horizon" in note for note in answer["notes"])


def test_ties_go_to_the_first_data_set_in_row_order(question):
    _, answer = question(grid())
    assert {c["dataset"] for c in answer["choices"]} == {"d0"}


def test_a_data_set_with_one_model_says_nothing_about_it(question):
    rows = [*grid(sets=1), toy("m2", "alone", 0.1), toy("m2", "alone2", 0.2)]
    _, answer = question(rows)
    assert [(c["model"], c["dataset"]) for c in answer["choices"]] == [("m0", "d0"), ("m1", "d0"), ("m2", "d0")]
    assert any("one data set only" in note for note in answer["notes"])


def test_models_that_share_no_data_set_do_not_compare(question):
    code, answer = question([toy(f"m{i}", f"d{i}", 1.0) for i in range(4)])
    assert code == 4
    assert "nothing compares; measure it on d1" in answer["probes"][0]["reason"]


def test_an_abstention_says_where_to_measure(question):
    code, answer = question([toy("m0", "d0", 1.0)])
    assert code == 4
    assert answer["probes"][0]["reason"].endswith("on a data set other than d0, and a second model on d0")


@pytest.mark.parametrize(
    ("words", "match"),
    [(["--models", "m9"], "--models: no record of 'm9'"), (["--datasets", "d9"], "--datasets: no record of 'd9'"),
     (["--datasets", " , "], "holds no name")],
)  # fmt: skip
def test_unknown_names_are_refused(question, words, match):
    with pytest.raises(UsageError, match=match):
        question(grid(), *words)


def test_a_conflicting_value_is_put_aside_and_the_smaller_counts(question, capsys, tmp_path):
    rows = [*grid(), toy("m0", "d0", 9.0)]
    found = [question(order)[1] for order in (rows, rows[::-1])]
    assert found[0] == found[1]
    assert (found[0]["quarantined"], found[0]["choices"][0]["predicted"]) == (1, 1.0)
    words = ["--task", "toy", "--metric", "mae", "--tables", "none", "--ledger", "none", "--explain"]
    main([*words, "--records", str(tmp_path / "toy.jsonl")])
    assert "quarantine: m0 on d0 = 9.0 from m0-d0: another value of the same run and seed" in capsys.readouterr().out


@pytest.mark.parametrize(("scorer", "weight"), [("global_best", 0.25), ("knn_shrunk", 0.25), ("mf_side", None)])
def test_the_weight_of_evidence_is_the_scorers(question, scorer, weight):
    _, answer = question(grid(), "--scorer", scorer)
    assert {e["weight"] for c in answer["choices"] for e in c["evidence"]} == {weight}
    _, answer = question(grid(), "--scorer", scorer, "--datasets", "d2")
    assert [e["weight"] for e in answer["choices"][0]["evidence"]] == [1.0, 0.0, 0.0]


def test_neighbours_weigh_more_than_far_columns(question):
    rows = [
        {**r, "dataset": {**r["dataset"], "features": {"x": float(r["dataset"]["name"][1:])}}} for r in grid(sets=9)
    ]
    _, answer = question(rows)
    assert answer["choices"][0]["evidence"][1]["weight"] > 1 / 9


def test_the_interval_says_its_level_and_rule(question):
    _, answer = question(grid(), "--scorer", "mf_side")
    assert "80% conformal bound of the first choice's regret, 4 columns of 4 data sets" in answer["notes"][-1]
    assert "none of these choices had any regret" in answer["notes"][-1]


def test_efficiency_ranks_by_one_quantity(question):
    rows = grid(values=(1.0, 1.0, 1.0))
    for r in rows:
        r["model"]["params"] = 5
        if r["model"]["name"] != "m0":
            r["criteria"] = {"latency_ms_p50": 100.0 if r["model"]["name"] == "m1" else 50.0}
    _, answer = question(rows, "--weights", "efficiency=1")
    assert answer["choices"][0]["model"] == "m2"


@pytest.mark.parametrize(
    ("weights", "note"), [("acceptance=1", "no record carries stars"), ("accuracy=3,efficiency=1", "weights sum to 4")]
)
def test_what_weights_do_not_do_is_said(question, weights, note):
    _, answer = question(grid(), "--weights", weights)
    assert any(note in n for n in answer["notes"])
