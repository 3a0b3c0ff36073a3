"""``septet assign``: what users get wrong, and the budget of a batch."""

from __future__ import annotations

import json

import pytest

from septet.launch.assign import main, parser
from septet.launch.errors import UsageError

QUESTION = ["--task", "traffic_speed", "--metric", "mae", "--horizon", "60 min", "--ledger", "none"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("licence: permisive", "s.yaml: licence is 'permisive'; did you mean 'permissive'"),
        ("direction: down", "s.yaml: direction is 'down'; known: max, min"),
        ("task: 3", "s.yaml: task is 3; a text is wanted"),
        ("metric: [mae]", r"s.yaml: metric is \['mae'\]; a text is wanted"),
        ("max_latency_ms: fast", "s.yaml: max_latency_ms is fast: a limit must be positive"),
        ("horizon: [1]", "s.yaml: horizon is"),
    ],
)
def test_a_wrong_scenario_file_is_named_with_the_field(tmp_path, text, match):
    path = tmp_path / "s.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UsageError, match=match):
        main(["--scenario", str(path), "--metric", "mae", "--task", "traffic_speed"])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--scenario", "gone.yaml"], "gone.yaml: no such file"),
        (["--weights", "accuracy=1,accuracy=5"], "accuracy stands twice"),
        (["--max-latency-ms", "inf"], "must be positive and finite"),
        (["--max-latency-ms", "nan"], "must be positive and finite"),
    ],
)
def test_wrong_flags_are_refused(words, match):
    with pytest.raises(UsageError, match=match):
        main([*QUESTION, *words])


def test_pictures_into_a_file_are_refused(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        main([*QUESTION, "--pictures", str(tmp_path / "f")])


def test_a_metric_that_the_task_has_not_gets_the_nearest_one():
    with pytest.raises(UsageError, match="unknown metric 'mase' of task 'traffic_speed'; did you mean 'mae'"):
        main(["--task", "traffic_speed", "--metric", "mase", "--ledger", "none"])


def test_no_ledger_and_no_records_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPTET_RUNS", str(tmp_path))
    with pytest.raises(UsageError, match=r"unknown task 'link prediction' \(there is no ledger .*ledger.sqlite yet\)"):
        main(["--task", "link prediction", "--metric", "ap"])
    with pytest.raises(UsageError, match="no records to choose from"):
        main(["--task", "link prediction", "--metric", "ap", "--tables", "none"])


def test_help_names_exit_codes_and_every_flag():
    text = parser().format_help()
    assert "3 no candidate keeps the limits" in " ".join(text.split())
    assert all(action.help for action in parser()._actions)


def test_a_batch_on_the_shipped_tables_has_training_times(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("task: traffic_speed\nmetric: mae\nhorizon: 60 min\n")
    words = ["--batch", str(tmp_path / "*.yaml"), "--ledger", "none", "--models", "himnet,staeformer"]
    assert main([*words, "--gpu-hours", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["choices"][0]["model"], round(answer["gpu_hours"], 3)) == ("staeformer", 0.907)
    assert main([*words, "--gpu-hours", "0"]) == 3
    assert "the cheapest assignment takes 0.9073 GPU hours: raise --gpu-hours" in capsys.readouterr().out


def test_a_batch_says_why_a_scenario_is_blocked(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("task: forecasting\nmetric: mase\n")
    assert main(["--batch", str(tmp_path / "*.yaml"), "--ledger", "none", "--gpu-hours", "1"]) == 3
    assert "a.yaml: no candidate with known training time" in capsys.readouterr().out


def test_text_counts_the_rejections_it_does_not_show(capsys):
    assert main([*QUESTION, "--max-params", "200000"]) == 0
    out = capsys.readouterr().out
    assert "rejected: 3 of 17 shown" in out
    assert main([*QUESTION, "--models", "himnet"]) == 0
    assert "not among" not in capsys.readouterr().out
