"""Choice under a latency budget on traffic: the law's error, violations and regret equal the golden values."""

from __future__ import annotations

import json

import pytest
from tests.support.paths import golden

from septet.datamodules.scenarios import load_bench
from septet.datamodules.scenarios.costs import traffic_costs
from septet.lightning_modules.smap.budgets import law_error, out_of_sample, predicted, under_budget


def test_the_error_of_the_law_equals_the_golden_values():
    expected = json.loads(golden("smap", "constraints.json").read_text())["latency_law"]
    assert law_error(traffic_costs()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rule", ["global_mean", "knn_shrunk"])
def test_violations_and_regret_equal_the_golden_values(rule):
    expected = json.loads(golden("smap", "constraints.json").read_text())["budgets"]
    scores = out_of_sample(load_bench("traffic_mts"), rule)
    cells = [(q, source) for q in (0.1, 0.25, 0.5, 0.75) for source in ("oracle", "law")]
    for quantile, source in cells:
        found = under_budget(scores, quantile, source)
        found.pop("abstained")
        assert found == pytest.approx(expected[f"q={quantile}/{source}/{rule}"], abs=1e-6)


@pytest.mark.parametrize("source", ["law", "margin"])
@pytest.mark.parametrize("quantile", [0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9])
def test_no_budget_is_broken_from_the_quarter_quantile_up(quantile, source):
    found = under_budget(out_of_sample(load_bench("traffic_mts"), "global_mean"), quantile, source)
    assert found["violation_rate"] == 0
    assert found["abstained"] == 0


def test_the_margin_covers_more_than_the_law_and_an_unknown_source_is_refused():
    costs = traffic_costs()
    inside = [(costs.seconds <= predicted(costs, source)).mean() for source in ("law", "margin")]
    assert inside[0] < 0.9 <= inside[1] + 0.05
    with pytest.raises(ValueError, match="unknown source 'guess'"):
        predicted(costs, "guess")
