"""``septet assign``: answers, limits, exit codes, byte-equal output."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from tests.support.paths import ROOT

from septet.launch.assign import main
from septet.launch.errors import UsageError


def record(model, dataset, value, run="r", **extra):
    return {
        "scenario": {"task": "t", "metric": "mae", "direction": "min", "horizon": 3}, "dataset": {"name": dataset},
        "model": {"name": model, "params": 10 if model == "A" else 1000, "licence": "MIT" if model != "C" else "GPL"},
        "value": value, "criteria": {"latency_ms_p95": {"A": 50.0, "B": 5.0, "C": 1.0}[model], "train_s": 3600.0},
        "provenance": {"run_id": run}, **extra,
    }  # fmt: skip


@pytest.fixture
def records(tmp_path):
    rows = [record(m, f"D{d}", v + 0.1 * d) for d in range(5) for m, v in (("A", 1.0), ("B", 2.0), ("C", 3.0))]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def ask(capsys, records, *words):
    code = main(["--task", "t", "--metric", "mae", "--records", str(records), "--ledger", "none", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_the_best_model_is_named_with_its_evidence(capsys, records):
    code, answer = ask(capsys, records)
    assert (code, answer["status"], answer["records_used"], answer["quarantined"]) == (0, "ok", 15, 0)
    assert [c["model"] for c in answer["choices"]] == ["a", "b", "c"]
    first = answer["choices"][0]
    assert len(first["evidence"]) == 3
    assert first["latency_ms"] == 50.0
    assert first["pareto"]


def test_limits_reject_with_both_numbers(capsys, records):
    code, answer = ask(capsys, records, "--max-latency-ms", "10", "--top", "1")
    assert (code, answer["choices"][0]["model"]) == (0, "b")
    assert answer["rejected"][0]["reason"] == "latency 50 > 10 (max_latency_ms)"
    _, answer = ask(capsys, records, "--licence", "permissive")
    assert "gpl" in answer["rejected"][0]["reason"]
    _, answer = ask(capsys, records, "--max-memory-gb", "1")
    assert {r["reason"] for r in answer["rejected"]} == {"memory unknown"}


def test_infeasible_limits_name_the_nearest_relaxation(capsys, records):
    code, answer = ask(capsys, records, "--max-latency-ms", "0.5")
    assert (code, answer["status"]) == (3, "infeasible")
    assert answer["relaxation"] == {"limit": "max_latency_ms", "value": 1.0}


def test_too_little_evidence_abstains(capsys, tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps(record("A", "D0", 1.0)) + "\n")
    code, answer = ask(capsys, path)
    assert (code, answer["status"], answer["probes"][0]["model"]) == (4, "abstain", "a")
    path.write_text("".join(json.dumps(record(m, "D0", 1.0)) + "\n" for m in "ABC"))
    code, answer = ask(capsys, path, "--max-regret", "5")
    assert code == 4
    assert "unbounded" in answer["probes"][0]["reason"]


def test_poisoned_values_are_quarantined(capsys, records):
    lines = records.read_text() + json.dumps(record("C", "D9", -5.0)) + "\n"
    records.write_text(lines)
    _, answer = ask(capsys, records)
    assert answer["quarantined"] == 1


def test_output_is_byte_equal_for_permuted_records_hash_seed_and_locale(records):
    lines = records.read_text().splitlines()
    found = set()
    for seed in ("0", "1"):
        random.Random(int(seed)).shuffle(lines)
        records.write_text("\n".join(lines) + "\n")
        code = "import sys; from septet.launch.assign import main; c = main(sys.argv[1:]); "
        code += "assert 'torch' not in sys.modules; sys.exit(c)"
        words = ["--task", "t", "--metric", "mae", "--records", str(records), "--ledger", "none", "--json"]
        env = {"PYTHONHASHSEED": seed, "LC_ALL": "C" if seed == "0" else "C.UTF-8", "PYTHONPATH": "src"}
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, env=env, capture_output=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--task", "tt", "--metric", "mae"], "unknown task 'tt'"),
        (["--task", "t", "--metric", "maee"], "did you mean 'mae'"),
        (["--task", "t"], "needs --metric"),
        (["--task", "t", "--metric", "mae", "--max-params", "-1"], "must be positive"),
        (["--task", "t", "--metric", "mae", "--direction", "max"], "contradictory"),
        (["--task", "t", "--metric", "mae", "--horizon", "9"], "no record with horizon"),
        (["--task", "t", "--metric", "mae", "--weights", "speed=1"], "unknown criterion"),
        (["--task", "t", "--metric", "mae", "--weights", "accuracy=0"], "all zero"),
        (["--task", "t", "--metric", "mae", "--gpu-hours", "1"], "go together"),
    ],
)
def test_wrong_questions_are_refused(records, words, match):
    with pytest.raises(UsageError, match=match):
        main([*words, "--records", str(records), "--ledger", "none", "--tables", "none"])


def test_a_corrupt_record_and_a_contradictory_file_are_named(records, tmp_path):
    records.write_text(records.read_text() + '{"value": 1}\n')
    with pytest.raises(UsageError, match=r"records\.jsonl:16: scenario\.task"):
        main(["--task", "t", "--metric", "mae", "--records", str(records), "--ledger", "none"])
    path = tmp_path / "s.yaml"
    path.write_text("task: t\nmetric: mae\nmax_params: 5\n")
    with pytest.raises(UsageError, match="contradictory"):
        main(["--scenario", str(path), "--max-params", "6"])
    path.write_text("task: t\nmetrc: mae\n")
    with pytest.raises(UsageError, match="did you mean 'metric'"):
        main(["--scenario", str(path)])


def test_a_batch_stays_within_its_budget(capsys, records, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("task: t\nmetric: mae\n")
    words = ["--batch", str(tmp_path / "*.yaml"), "--records", str(records), "--ledger", "none", "--json"]
    assert main([*words, "--gpu-hours", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [c["model"] for c in answer["choices"]] == ["a", "a"]
    assert answer["gpu_hours"] == 2.0
    assert main([*words, "--gpu-hours", "1.5"]) == 3


def test_the_text_answer_explains_itself(capsys, records):
    records.write_text(records.read_text() + json.dumps(record("A", "D0", 9.0, protocol={"mask": "other"})) + "\n")
    assert main(["--task", "t", "--metric", "mae", "--records", str(records), "--ledger", "none", "--explain"]) == 0
    assert "2 protocols" in capsys.readouterr().out
