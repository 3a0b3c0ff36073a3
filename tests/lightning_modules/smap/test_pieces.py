"""Losses, conformal quantiles, the latency law and the solver."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.smap.assign import Assignment, solve
from septet.lightning_modules.smap.conformal import conformal_quantile
from septet.lightning_modules.smap.latency import LatencyLaw
from septet.lightning_modules.smap.losses import bpr, link_bce, listnet, pinball


def load(name):
    return json.loads(golden("smap", name).read_text())


def test_losses_equal_the_golden_values():
    for case in load("numeric.json")["losses"]:
        score, z, pred, target = (torch.tensor(case[k], dtype=torch.float64) for k in ("score", "z", "pred", "target"))
        mask = torch.tensor(case["mask"])
        t = case["temperature"]
        assert float(listnet(score, z, mask, t)) == pytest.approx(case["listnet"], abs=1e-9)
        assert float(bpr(score, z, mask, case["delta"], t)) == pytest.approx(case["bpr"], abs=1e-9)
        expected = (
            0.0 if case["pinball"] is None else case["pinball"]
        )  # undefined on an empty mask; 0 keeps sums usable
        assert float(pinball(pred, target, case["quantiles"], mask)) == pytest.approx(expected, abs=1e-9)


def test_nan_in_masked_cells_reaches_no_gradient():
    score = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1, 2] = False
    z = torch.randn(4, 3).masked_fill(~mask, torch.nan)
    pred = score[..., None].expand(4, 3, 2)
    total = (
        listnet(score, z, mask) + bpr(score, z, mask) + pinball(pred, z, [0.1, 0.9], mask) + link_bce(score, z, mask)
    )
    total.backward()
    assert torch.isfinite(score.grad).all()
    assert score.grad[1, 2] == 0


def test_empty_masks_give_zero_and_wrong_shapes_an_error():
    x = torch.zeros(2, 2, requires_grad=True)
    none = torch.zeros(2, 2, dtype=torch.bool)
    total = listnet(x, x, none) + bpr(x, x, none) + pinball(x[..., None], x, [0.5], none) + link_bce(x, x, none)
    assert float(total.detach()) == 0
    for call in (lambda: listnet(x, x[:1], none), lambda: bpr(x, x[:1], none), lambda: pinball(x, x[:1], [0.5], none)):
        with pytest.raises(ValueError, match="shapes differ"):
            call()
    for call in (lambda: listnet(x, x, none, 0.0), lambda: bpr(x, x, none, 0.1, 0.0)):
        with pytest.raises(ValueError, match="temperature is 0"):
            call()
    with pytest.raises(ValueError, match="each in"):
        pinball(x[..., None], x, [1.5], none)


def test_conformal_quantiles_equal_the_golden_values():
    for case in load("numeric.json")["conformal"]:
        assert conformal_quantile(case["scores"], case["level"]) == pytest.approx(float(case["expected"]))
    with pytest.raises(ValueError, match="level is 1"):
        conformal_quantile([1.0], 1.0)
    with pytest.raises(ValueError, match="NaN"):
        conformal_quantile([math.nan], 0.5)


def test_the_latency_law_equals_the_golden_values():
    case = load("numeric.json")["latency_law"]
    law = LatencyLaw.fit(case["size"], case["latency"], case["model"], case["n_models"])
    found = np.array(
        [law.predict(np.full(len(case["query_size"]), m), case["query_size"]) for m in range(case["n_models"])]
    )
    np.testing.assert_allclose(found, np.array(case["predicted"]), rtol=1e-9)
    for size, latency, model, match in (
        ([1, -1], [1, 1], [0, 0], "positive"), ([1], [1, 2], [0], "one length"), ([1], [1], [5], "out of range"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            LatencyLaw.fit(size, latency, model, 2)
    with pytest.raises(ValueError, match="must be positive"):
        law.predict([0], [0.0])


def test_solve_equals_enumeration_in_the_golden_problems():
    for case in load("assign_small.json"):
        found = solve(
            case["utility"], case["allowed"], cost=case["cost"], budget=case["budget"], capacity=case["capacity"]
        )
        assert (found.status, found.blocked) == (case["status"], case["blocked"])
        if case["value"] is None:
            assert found.value is None
            continue
        assert found.value == pytest.approx(case["value"], abs=1e-7)
        if case["cost"] is None and case["capacity"] is None:
            assert [list(c) for c in found.choice] == case["choice"]


def test_solve_equals_brute_force_on_random_problems():
    rng = np.random.default_rng(0)
    for _ in range(20):
        u, cost, allowed = rng.normal(size=(3, 2, 2)), rng.uniform(size=(3, 2, 2)), rng.uniform(size=(3, 2, 2)) > 0.2
        found = solve(u, allowed, cost=cost, budget=1.2, capacity=[2, 2])
        best = -np.inf
        for choice in itertools.product(itertools.product(range(2), range(2)), repeat=3):
            picks = [(s, d, m) for s, (d, m) in enumerate(choice)]
            uses = [sum(m == k for _, _, m in picks) for k in range(2)]
            if all(allowed[p] for p in picks) and sum(cost[p] for p in picks) <= 1.2 and max(uses) <= 2:
                best = max(best, sum(u[p] for p in picks))
        assert found.value == pytest.approx(best) if np.isfinite(best) else found.status == "infeasible"


def test_large_problems_are_solved_greedily(monkeypatch):
    from septet.lightning_modules.smap import assign

    monkeypatch.setattr(assign, "_LARGEST", 1)
    rng = np.random.default_rng(1)
    u, cost = rng.normal(size=(4, 2, 3)), rng.uniform(size=(4, 2, 3))
    found = solve(u, np.ones_like(u, dtype=bool), cost=cost, budget=2.0, capacity=[2, 2, 2])
    assert found.status == "heuristic"
    assert sum(cost[s, d, m] for s, (d, m) in enumerate(found.choice)) <= 2.0
    assert isinstance(found, Assignment)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"allowed": np.ones((1, 1, 3), bool)}, r"\(S, D, M\)"),
        ({"utility": np.full((1, 1, 2), np.nan)}, "utility is NaN"),
        ({"cost": -np.ones((1, 1, 2))}, "negative"),
        ({"cost": np.ones((1, 2, 2))}, "cost"),
        ({"budget": 1.0}, "without cost"),
        ({"capacity": [1]}, "capacity must be"),
        ({"capacity": [-1, 1]}, "capacity is negative"),
    ],
)
def test_solve_refuses_wrong_input(change, match):
    named = {"utility": np.zeros((1, 1, 2)), "allowed": np.ones((1, 1, 2), bool), **change}
    with pytest.raises(ValueError, match=match):
        solve(**named)
