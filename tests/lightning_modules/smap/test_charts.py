"""Pictures of a test and of an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from septet.datamodules.scenarios import generate_scenarios, split
from septet.launch.assign import main
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.charts import (
    answer_rows,
    assignment_rows,
    front,
    pareto,
    regret_bars,
    regret_by_rule,
    table_figure,
)

PNG = b"\x89PNG"


def test_the_front_is_what_no_other_row_beats():
    score, cost = np.array([3.0, 1.0, 2.0, 0.5]), np.array([1.0, 2.0, 3.0, np.nan])
    assert front(score, cost).tolist() == [0, 1]


def test_regret_bars_hold_every_rule_with_its_own_regret():
    bench = generate_scenarios(0)
    part = split(bench, "lodo")[0]
    perfect = bench.values[:, part.test]
    table = regret_by_rule(bench, part, part.test, perfect)
    assert table["SMAP"] == pytest.approx(0.0)
    assert {"global_best", "global_mean", "scenario_best", "knn_meta", "knn_shrunk", "mf_side"} < set(table)


def test_the_table_gives_evidence_and_says_why_the_favourite_was_not_taken():
    bench = generate_scenarios(0)
    part = split(bench, "lodo")[0]
    score = -baselines.predict("global_best", bench, part.train, part.test)
    attention = np.full((len(part.test), len(bench.columns)), 0.1)
    rows = assignment_rows(bench, part, part.test, score, attention)
    favourite = bench.models[int(np.argmax(score[:, 0]))]
    assert len(rows) == len(part.test)
    assert rows[0][3].endswith("place 20 here")
    assert rows[0][1] != favourite
    assert rows[0][2].count(";") == 1


def test_assign_draws_its_answer(tmp_path, capsys):
    words = ["--task", "traffic_speed", "--metric", "mae", "--ledger", "none", "--max-latency-ms", "1", "--json"]
    assert main([*words, "--pictures", str(tmp_path / "p")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert 0 < answer["choices"][0]["p_feasible"] < 1
    for name in ("assignment", "pareto"):
        assert (tmp_path / "p" / f"{name}.png").read_bytes()[:4] == PNG


def test_an_answers_table_is_whole_and_counts_what_it_leaves_out():
    choice = {"rank": 1, "model": "m", "pareto": True, "dataset": "d", "predicted": 1.0, "latency_ms": None,
              "evidence": [{"dataset": "d", "value": 1.0, "source": "a long source " * 10}]}  # fmt: skip
    rejected = [{"model": f"r{i}", "dataset": "d", "reason": "latency unknown"} for i in range(25)]
    rows = answer_rows({"choices": [choice], "rejected": rejected})
    assert rows[0][0] == "1. m *"
    assert rows[0][3].count("a long source") == 10
    assert rows[-1][0] == "rejected: 5 more"
    cells = table_figure(["a", "b", "c", "d"], rows).axes[0].tables[0].get_celld()
    assert "..." not in cells[1, 3].get_text().get_text()
    assert cells[1, 0].get_height() > 2 * cells[2, 0].get_height()


def test_the_pareto_picture_draws_the_stars_of_the_text():
    drawn = pareto(
        ["a", "b", "c"], np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), "s", None, [True, False, True]
    )
    axes = drawn.axes[0]
    assert [t.get_text() for t in axes.texts] == ["a", "b", "c"]
    assert axes.collections[1].get_offsets().tolist() == [[1.0, 1.0], [3.0, 3.0]]


def test_bars_say_which_columns_were_measured():
    assert regret_bars({"SMAP": 1.0}, "test part METRLA only").axes[0].get_title() == "test part METRLA only"
