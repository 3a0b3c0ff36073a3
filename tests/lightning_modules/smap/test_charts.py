"""Pictures of a test and of an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from septet.datamodules.scenarios import generate_scenarios, split
from septet.launch.assign import main
from septet.lightning_modules.smap import baselines
from septet.lightning_modules.smap.charts import assignment_rows, front, regret_by_rule

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
