"""``septet assign`` over a ledger of runs: limits, ``--then fit``, ``--probe``, ``--batch``; and what is refused."""

from __future__ import annotations

import json
import sqlite3

import pytest

from septet.launch import assign_then
from septet.launch.assign import main
from septet.launch.errors import UsageError

QUESTION = ["--task", "link prediction", "--metric", "ap", "--tables", "none"]


def row(model, value, run, p95, params, memory):
    return {
        "schema": 1, "run_id": run, "method": model, "status": "finished", "stage": "test", "seed": 0,
        "scenario": {"task": "link prediction"}, "dataset": "synthetic", "finished": "2026-11-26T05:00:00+00:00",
        "metrics": {"test/ap": value}, "model": {"name": model, "params": params},
        "criteria": {"latency_ms_p50": p95 / 2, "latency_ms_p95": p95, "device": "cpu", "peak_mem_bytes": memory},
    }  # fmt: skip


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPTET_RUNS", str(tmp_path))
    rows = [
        row("cne_n", 0.8, "20261126-050000-aaaa", 15.0, 200_000, 2**30),
        row("edgebank", 0.6, "20261126-050000-bbbb", 2.0, 0, 2**28),
        row("tgn", 0.7, "20261126-050000-cccc", 40.0, 400_000, 2**32),
    ]
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("CREATE TABLE runs (run_id TEXT, finished TEXT, record TEXT)")
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", [(r["run_id"], r["finished"], json.dumps(r)) for r in rows])
    db.close()
    for r in rows:
        folder = tmp_path / r["method"] / "smoke" / r["run_id"]
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed_everything: 0\n")
    return tmp_path / "ledger.sqlite"


def ask(capsys, *words):
    code = main([*QUESTION, "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_the_ledger_answers_with_the_run_as_evidence(ledger, capsys):
    code, answer = ask(capsys)
    assert (code, answer["records_used"]) == (0, 3)
    first = answer["choices"][0]
    assert (first["model"], first["latency_ms"], first["p_feasible"]) == ("cne_n", 15.0, 1.0)
    assert first["evidence"][0]["source"] == "20261126-050000-aaaa"


@pytest.mark.parametrize(
    ("words", "chosen", "reason"),
    [
        (["--max-latency-ms", "10"], "edgebank", "latency 15 > 10 (max_latency_ms)"),
        (["--max-params", "100"], "edgebank", "params 200000 > 100 (max_params)"),
        (["--max-memory-gb", "0.5"], "edgebank", "memory 1 > 0.5 (max_memory_gb)"),
    ],
)
def test_measured_latency_parameters_and_memory_bind(ledger, capsys, words, chosen, reason):
    code, answer = ask(capsys, *words)
    assert (code, answer["choices"][0]["model"]) == (0, chosen)
    assert reason in {r["reason"] for r in answer["rejected"]}


def test_the_measured_percentiles_say_how_sure_a_candidate_is(ledger, capsys):
    _, answer = ask(capsys, "--max-latency-ms", "15")
    assert answer["choices"][0]["p_feasible"] == pytest.approx(0.95, abs=1e-6)


def test_another_device_leaves_latency_unknown(ledger, capsys):
    code, answer = ask(capsys, "--max-latency-ms", "15", "--device", "H100")
    assert code == 3
    assert {r["reason"] for r in answer["rejected"]} == {"latency unknown"}


def test_the_chosen_run_is_fitted(ledger, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(assign_then, "_fit", lambda words: started.append(words) or 7)
    assert main([*QUESTION, "--then", "fit"]) == 7
    config = ledger.parent / "cne_n/smoke/20261126-050000-aaaa/config.yaml"
    assert started == [["fit", "-c", str(config), "--name", "smoke"]]
    assert "starting: septet fit" in capsys.readouterr().out
    assert main([*QUESTION, "--then", "fit", "--max-latency-ms", "0.1"]) == 3
    assert len(started) == 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--then", "fit", "--json"], "without --json"),
        (["--then", "fit", "--batch", "*.yaml", "--gpu-hours", "1"], "without --batch"),
        (["--then", "fit", "--ledger", "none"], "drop --ledger none"),
        (["--batch", "*.yaml"], "go together"),
        (["--batch", "no-*.yaml", "--gpu-hours", "1"], "matches no file"),
        (["--batch", "*.yaml", "--gpu-hours", "-1"], "not negative"),
        (["--batch", "*.yaml", "--gpu-hours", "inf"], "finite budget"),
        (["--batch", "*.yaml", "--gpu-hours", "1", "--scenario", "s.yaml"], "contradictory"),
        (["--probe", "0"], "must be positive"),
        (["--top", "-1"], "must be positive"),
        (["--max-regret", "nan"], "must be positive"),
        (["--ledger", "gone.sqlite"], "no such file"),
        (["--records", "gone.jsonl"], "no such file or folder"),
    ],
)
def test_contradictory_options_are_refused(ledger, words, match):
    with pytest.raises(UsageError, match=match):
        main([*QUESTION, *words])


def test_a_choice_that_no_run_speaks_for_cannot_be_fitted(ledger):
    words = ["--task", "traffic_speed", "--metric", "mae", "--then", "fit"]
    with pytest.raises(UsageError, match="measured elsewhere"):
        main(words)


def test_probe_names_as_many_models_as_asked(ledger, capsys):
    code, answer = ask(capsys, "--max-regret", "0.001", "--probe", "2")
    assert code == 4
    assert [p["model"] for p in answer["probes"]] == ["cne_n", "tgn"]


def test_a_broken_ledger_is_named(tmp_path):
    (tmp_path / "l.sqlite").write_text("no database at all, only text of some length")
    with pytest.raises(UsageError, match="is not a run ledger"):
        main([*QUESTION, "--ledger", str(tmp_path / "l.sqlite")])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scenario": {"task": "t", "metric": "mae", "direction": "up"}}, r"r\.jsonl:1: scenario\.direction is 'up'"),
        ({"dataset": None}, r"r\.jsonl:1: dataset\.name"),
        ({"model": {"name": " "}}, r"r\.jsonl:1: model\.name"),
        ({"value": float("nan")}, r"r\.jsonl:1: record\.value is nan"),
        ({"value": None}, r"r\.jsonl:1: record\.value is None"),
        ({"provenance": {}}, r"r\.jsonl:1: provenance\.run_id"),
        ({"state": "lost"}, r"r\.jsonl:1: state"),
        ({"n": 0}, r"r\.jsonl:1: record\.n"),
        ({"criteria": {"latency_ms_p50": -1}}, r"r\.jsonl:1: criteria\.latency_ms_p50"),
    ],
)
def test_a_wrong_record_is_named_by_file_line_and_field(tmp_path, change, match):
    good = {
        "scenario": {"task": "t", "metric": "mae", "direction": "min"}, "dataset": {"name": "D"},
        "model": {"name": "A"}, "value": 1.0, "provenance": {"run_id": "r"},
    }  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps({**good, **change}) + "\n")
    with pytest.raises(UsageError, match=match):
        main(["--task", "t", "--metric", "mae", "--ledger", "none", "--records", str(tmp_path / "r.jsonl")])


def test_every_shipped_task_is_known_and_a_near_name_is_offered():
    with pytest.raises(UsageError, match="did you mean 'Object Detection'"):
        main(["--task", "objct detection", "--metric", "box ap", "--ledger", "none"])


def test_percentages_stay_percentages(capsys):
    words = ["--task", "object detection", "--metric", "box ap", "--ledger", "none", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    for choice in answer["choices"]:
        low, high = choice["interval"]
        assert 1 < choice["predicted"] <= 100
        assert 0 <= low <= choice["predicted"] <= high <= 100
