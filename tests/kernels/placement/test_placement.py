from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.paths import golden, shared_data

from septet.kernels.placement import (
    DeviceModel,
    HeadPlan,
    ModelShape,
    Replica,
    assign,
    contiguous_plan,
    duo_tokens,
    group_mean,
    headkv_tokens,
    lower_bound,
    read_profile,
    simulate,
    solve,
)


def _cases(name):
    return json.loads(golden("fairkv", name).read_text())


def _span(loads, devices, count):
    out = np.zeros(count)
    np.add.at(out, devices, loads)
    return out.max()


@pytest.mark.parametrize("cardinality", ["free", "equal"])
def test_exact_assignment_hits_the_optimum(cardinality):
    checked = 0
    for case in _cases("assign_small.json"):
        optimum = case[f"optimum_{cardinality}"]
        if optimum is not None:
            devices = assign(case["loads"], case["n_devices"], method="exact", cardinality=cardinality)
            assert _span(case["loads"], devices, case["n_devices"]) == pytest.approx(optimum, rel=1e-9)
            if cardinality == "equal":
                assert set(np.bincount(devices, minlength=case["n_devices"])) == {len(devices) // case["n_devices"]}
            checked += 1
    assert checked >= 15


def test_longest_first_is_close_to_the_optimum():
    ratios = []
    for case in _cases("assign_small.json"):
        devices = assign(case["loads"], case["n_devices"], method="lpt")
        ratios.append(_span(case["loads"], devices, case["n_devices"]) / case["optimum_free"])
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) <= 1.1


def test_copies_against_exhaustive_search():
    ratios = []
    for case in _cases("copies_small.json"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one case has a batch of 1
            plan = solve(
                [case["loads"]],
                case["n_devices"],
                batch_size=case["batch_size"],
                copies=case["copies"],
                weight_cost=case["weight_cost"],
            )
        ratios.append(float(plan.makespans([case["loads"]], case["weight_cost"])[0]) / case["optimum"])
        assert plan.copies[0] <= case["copies"]
    assert min(ratios) >= 1 - 1e-6
    assert np.mean(ratios) <= 1.02
    assert max(ratios) <= 1.10


@pytest.mark.slow
def test_published_profiles_reach_the_best_known_values():
    profiles = np.load(golden("fairkv", "profiles.npz"))
    for name, entries in _cases("profiles_reference.json").items():
        loads = profiles[name]
        for entry in entries:
            count, batch = entry["n_devices"], entry["batch_size"]
            plain = contiguous_plan(*loads.shape, count, batch)
            assert float(plain.makespans(loads).sum()) == pytest.approx(entry["contiguous"], rel=1e-9)
            for key, copies in (("assign", 0), ("copies1", 1), ("copies2", 2), ("copies4", 4)):
                plan = solve(loads, count, batch_size=batch, copies=copies)
                assert float(plan.makespans(loads).sum()) <= 1.01 * entry[key], (name, count, key)
                assert max(plan.copies) <= copies


def test_utilisation_of_the_headkv_profile():
    loads = np.load(golden("fairkv", "profiles.npz"))["headkv_llama3_8b_kv8"]
    assert solve(loads, 4, batch_size=8, copies=2).utilisation(loads) >= 0.96
    assert solve(loads, 8, batch_size=8, copies=4).utilisation(loads) >= 0.85


@pytest.mark.parametrize("index", [0, 1])
def test_loads_and_simulation_equal_the_golden(index):
    case = _cases("plan_cases.json")[index]
    plan = HeadPlan.from_json(json.dumps(case["plan"]))
    tokens = case["head_tokens"]
    np.testing.assert_allclose(plan.loads(tokens, case["weight_cost"]), case["loads"], rtol=1e-9)
    np.testing.assert_allclose(plan.makespans(tokens, case["weight_cost"]), case["makespans"], rtol=1e-9)
    assert plan.utilisation(tokens, case["weight_cost"]) == pytest.approx(case["utilisation"], rel=1e-9)
    result = simulate(plan, tokens, ModelShape(**case["shape"]), DeviceModel(**case["device"]))
    for key, value in case["simulation"].items():
        np.testing.assert_allclose(getattr(result, key), value, rtol=1e-9)


loads_strategy = st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=6).filter(lambda w: sum(w) > 0)


@settings(max_examples=40, deadline=None)
@given(loads=loads_strategy, count=st.integers(1, 4), batch=st.integers(1, 6), cost=st.sampled_from([0.0, 40.0]))
def test_properties_of_solve(loads, count, batch, cost):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = [solve([loads], count, batch_size=batch, copies=k, weight_cost=cost) for k in range(3)]
    spans = [float(p.makespans([loads], cost)[0]) for p in plans]
    assert spans == sorted(spans, reverse=True), "more copies never cost"
    if cost == 0:
        for copies, span in enumerate(spans):
            assert span >= lower_bound(loads, count, batch_size=batch, copies=copies) * (1 - 1e-9)
    if len(loads) % count == 0:
        assert spans[0] <= float(contiguous_plan(1, len(loads), count, batch).makespans([loads], cost)[0]) * (1 + 1e-9)
    scaled = (
        solve([[3 * w for w in loads]], count, batch_size=batch, weight_cost=3 * cost) if count <= len(loads) else None
    )
    if scaled is not None:
        assert float(scaled.makespans([[3 * w for w in loads]], 3 * cost)[0]) == pytest.approx(3 * spans[0])
        turned = solve([loads[::-1]], count, batch_size=batch, weight_cost=cost)
        assert float(turned.makespans([loads[::-1]], cost)[0]) == pytest.approx(spans[0], rel=1e-9)
    for plan in plans:
        assert HeadPlan.from_json(plan.to_json()) == plan
        assert 0 < plan.utilisation([loads], cost) <= 1 + 1e-12
    if batch == 1:
        assert plans[2].copies == [0]


def test_memory_is_levelled_over_layers():
    loads = torch.tensor([[8.0, 1.0]] * 6)
    totals = solve(loads, 2).loads(loads).sum(dim=0)
    assert totals[0] == totals[1]


def test_plan_file_round_trip(tmp_path):
    plan = solve([[5.0, 1.0, 1.0]], 2, batch_size=4, copies=1)
    plan.to_json(tmp_path / "plan.json")
    assert HeadPlan.from_json(tmp_path / "plan.json") == plan


_GOOD = ((Replica(0, 0, 2),), (Replica(1, 0, 2),))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HeadPlan(0, 2, (_GOOD,)), "n_devices is 0"),
        (lambda: HeadPlan(2, 0, (_GOOD,)), "batch_size is 0"),
        (lambda: HeadPlan(2, 2, ()), "at least one layer"),
        (lambda: HeadPlan(1, 2, (_GOOD,)), "layer 0, head 1: device 1"),
        (lambda: HeadPlan(2, 2, (_GOOD, _GOOD[:1])), "layer 1 has 1 heads"),
        (lambda: HeadPlan(2, 2, (((Replica(0, 0, 1), Replica(0, 1, 2)),),)), "named twice"),
        (lambda: HeadPlan(2, 2, (((Replica(0, 0, 1),),),)), "do not partition"),
        (lambda: HeadPlan(2, 2, (((Replica(0, 0, 2), Replica(1, 1, 2)),),)), "do not partition"),
        (lambda: HeadPlan.from_json('{"format": "other/1"}'), "other/1"),
        (lambda: HeadPlan.from_json("nowhere.json"), "no plan file"),
        (lambda: HeadPlan.from_json("{oops"), "must be JSON"),
        (lambda: contiguous_plan(1, 3, 2), "3 KV heads do not divide over 2"),
        (lambda: assign([1.0, -1.0], 2), "not negative"),
        (lambda: assign([1.0, float("nan")], 2), "finite"),
        (lambda: assign([], 2), "not be empty"),
        (lambda: assign([[1.0]], 2), "1 dimension"),
        (lambda: assign([1.0], 0), "n_devices is 0"),
        (lambda: assign([1.0], 1, method="greedy"), "'greedy'"),
        (lambda: assign([1.0], 1, cardinality="even"), "'even'"),
        (lambda: assign([1.0, 2.0, 3.0], 2, cardinality="equal"), "3 heads do not divide over 2"),
        (lambda: solve([[1.0]], 1, copies=-1), "copies is -1"),
        (lambda: solve([[1.0]], 1, batch_size=0), "batch_size is 0"),
        (lambda: solve([[1.0]], 1, weight_cost=-1.0), "weight_cost is -1"),
        (lambda: lower_bound([1.0], 1, copies=-2), "copies is -2"),
        (lambda: contiguous_plan(1, 2, 2).loads([[1.0]]), "do not fit"),
        (
            lambda: simulate(contiguous_plan(1, 2, 2), [[1.0, 1.0]], ModelShape(2, 2, 2, 8, 16, 32), DeviceModel(1e9)),
            "shape has 2 layers",
        ),
        (lambda: group_mean(torch.ones(1, 6), 4), "do not group"),
        (lambda: read_profile("nothing.npz"), "no head profile"),
    ],
)
def test_wrong_input_names_value_and_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_batch_of_one_has_nothing_to_share():
    with pytest.warns(UserWarning, match="batch of 1"):
        assert solve([[5.0, 1.0]], 2, copies=2).copies == [0]


def test_idle_devices_are_named():
    with pytest.warns(UserWarning, match="2 idle"):
        solve([[5.0, 1.0]], 4, batch_size=4)


def test_published_scores_give_the_golden_loads():
    profiles = np.load(golden("fairkv", "profiles.npz"))
    scores = read_profile(
        shared_data("long_context/heads/headkv_retrieval_reasoning_mean_scores.npz"), "Meta_Llama_3_8B_Instruct"
    )
    tokens = headkv_tokens(scores)
    np.testing.assert_allclose(tokens, profiles["headkv_llama3_8b_q32"])
    np.testing.assert_allclose(group_mean(tokens, 8), profiles["headkv_llama3_8b_kv8"])
    gates = read_profile(shared_data("long_context/heads/duo_Meta-Llama-3.1-8B-Instruct.tsv"))
    np.testing.assert_allclose(duo_tokens(gates), profiles["duo_llama31_8b"])
