"""The prior from plain rules: out of fold, weighted on train columns only, dealt on the scale of the means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from septet.datamodules.scenarios import generate_scenarios, split
from septet.lightning_modules.smap.model import deal
from septet.lightning_modules.smap.stack import RULES, stacked

PLAIN = [name for name in RULES if not name.startswith("lgbm")]


def test_results_outside_train_change_nothing():
    bench = generate_scenarios(3)
    part = split(bench, "lodo")[1]
    first = stacked(bench, part.train, part.test, rules=PLAIN)
    values = bench.values.copy()
    values[:, part.test] = 1e9
    again = stacked(dataclasses.replace(bench, values=values), part.train, part.test, rules=PLAIN)
    assert np.array_equal(first.scores, again.scores, equal_nan=True)
    assert first.weights == again.weights


def test_a_train_column_is_ranked_without_its_own_group():
    bench = generate_scenarios(3)
    part = split(bench, "lodo")[1]
    group = bench.group[part.train[0]]
    own = [j for j in part.train if bench.group[j] == group]
    values = bench.values.copy()
    values[:, own] = values[::-1, own]
    one = stacked(bench, part.train, part.test, rules=["knn_shrunk"])
    two = stacked(dataclasses.replace(bench, values=values), part.train, part.test, rules=["knn_shrunk"])
    assert np.array_equal(one.scores[:, own], two.scores[:, own])
    assert not np.array_equal(one.scores[:, part.test], two.scores[:, part.test])


def test_hidden_groups_are_ranked_but_never_read():
    bench = generate_scenarios(3)
    part = split(bench, "lodo")[1]
    group = bench.group[part.train[-1]]
    held = [j for j in part.train if bench.group[j] == group]
    rest = [j for j in part.train if bench.group[j] != group]
    values = bench.values.copy()
    values[:, held] = values[::-1, held]
    found = [
        stacked(dataclasses.replace(bench, values=v), part.train, part.test, hidden={group}, rules=["knn_shrunk"])
        for v in (bench.values, values)
    ]
    assert np.array_equal(found[0].scores[:, rest], found[1].scores[:, rest])
    assert np.isfinite(found[0].scores[:, held]).all()


def test_weights_sum_to_one_and_sharpness_keeps_the_best_rule():
    bench = generate_scenarios(4)
    part = split(bench, "lodo")[0]
    soft = stacked(bench, part.train, part.test, rules=PLAIN)
    assert sum(soft.weights.values()) == pytest.approx(1)
    assert min(soft.weights.values()) > 0
    sharp = stacked(bench, part.train, part.test, rules=PLAIN, sharpness=float("inf"))
    best = min(sharp.loss, key=sharp.loss.get)
    assert sharp.weights[best] == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"criterion": "tau"}, "criterion is 'tau'"), ({"sharpness": -1.0}, "sharpness is -1"),
        ({"rules": ["magic"]}, "rules are"), ({"rules": []}, "rules are"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, match):
    bench = generate_scenarios(4)
    part = split(bench, "lodo")[0]
    with pytest.raises(ValueError, match=match):
        stacked(bench, part.train, part.test, **options)


def test_dealing_keeps_the_values_and_takes_the_order():
    prior = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    rank = torch.tensor([[0.0, 1.0, 0.5, 0.2]])
    known = torch.tensor([[True, True, True, False]])
    dealt = deal(prior, rank, known)
    assert dealt.tolist() == [[-1.0, 2.0, 0.5, 0.0]]
    assert torch.equal(deal(prior, torch.zeros(1, 4), known), prior)
    assert torch.equal(deal(prior, torch.full((1, 4), torch.nan), known), prior)
