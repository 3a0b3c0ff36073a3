"""Properties of plans: files, permutations, loads, and the bounds that no plan passes."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.placement import (
    DeviceModel,
    HeadPlan,
    ModelShape,
    Replica,
    assign,
    contiguous_plan,
    lower_bound,
    simulate,
    solve,
)


@st.composite
def plans(draw):
    """Any valid plan: heads on distinct devices, rows cut anywhere."""
    devices, batch = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    n_heads, n_layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    layers = []
    for _ in range(n_layers):
        heads = []
        for _ in range(n_heads):
            count = draw(st.integers(1, min(devices, batch)))
            chosen = draw(st.permutations(range(devices)))[:count]
            inner = sorted(draw(st.permutations(range(1, batch)))[: count - 1]) if batch > 1 else []
            edges = [0, *inner, batch]
            heads.append(tuple(Replica(d, edges[i], edges[i + 1]) for i, d in enumerate(chosen)))
        layers.append(tuple(heads))
    return HeadPlan(devices, batch, tuple(layers), {"profile": "drawn"})


def _solve(loads, devices, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(loads, devices, **options)


@settings(max_examples=50, deadline=None)
@given(plan=plans())
def test_a_plan_file_is_read_as_it_was_written(plan, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "plan.json"
    text = plan.to_json(path)
    for source in (text, path, str(path)):
        again = HeadPlan.from_json(source)
        assert again == plan
        assert again.meta == plan.meta
        assert again.to_json() == text
    assert again.copies == plan.copies


@settings(max_examples=50, deadline=None)
@given(plan=plans(), cost=st.sampled_from([0.0, 3.0]))
def test_loads_are_shared_out_and_weights_are_paid_per_replica(plan, cost):
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(plan.n_layers, plan.n_kv_heads, generator=generator, dtype=torch.float64) * 9
    loads = plan.loads(weights, cost)
    replicas = torch.tensor([plan.n_kv_heads + k for k in plan.copies], dtype=torch.float64)
    torch.testing.assert_close(loads.sum(dim=1), weights.sum(dim=1) + cost * replicas)
    torch.testing.assert_close(plan.makespans(weights, cost), loads.amax(dim=1))
    assert 0 < plan.utilisation(weights, cost) <= 1 + 1e-12
    bounds = [
        lower_bound(w, plan.n_devices, batch_size=plan.batch_size, copies=k)
        for w, k in zip(weights, plan.copies, strict=True)
    ]
    assert (plan.makespans(weights) >= torch.tensor(bounds, dtype=torch.float64) * (1 - 1e-9)).all()


@settings(max_examples=25, deadline=None)
@given(
    loads=st.lists(st.integers(1, 500).map(float), min_size=2, max_size=6),
    order=st.randoms(use_true_random=False),
    copies=st.integers(0, 2),
)
def test_order_and_unit_of_the_loads_change_nothing(loads, order, copies):
    mixed = list(loads)
    order.shuffle(mixed)
    options = {"batch_size": 4, "copies": copies}
    span = float(_solve([loads], 2, **options).makespans([loads])[0])
    assert float(_solve([mixed], 2, **options).makespans([mixed])[0]) == pytest.approx(span, rel=1e-9)
    large = [1000.0 * w for w in loads]
    assert float(_solve([large], 2, **options).makespans([large])[0]) == pytest.approx(1000 * span, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(loads=st.lists(st.integers(0, 50).map(float), min_size=1, max_size=5), batch=st.integers(1, 3))
def test_a_batch_smaller_than_the_replicas_is_never_planned(loads, batch):
    plan = _solve([loads], 5, batch_size=batch, copies=9)
    assert all(len(head) <= batch for head in plan.layers[0])
    assert all(r.stop > r.start for head in plan.layers[0] for r in head)


@settings(max_examples=20, deadline=None)
@given(plan=plans())
def test_a_step_is_never_faster_than_its_bytes(plan):
    tokens = torch.ones(plan.n_layers, plan.n_kv_heads, dtype=torch.float64) * 50
    shape = ModelShape(plan.n_layers, 2 * plan.n_kv_heads, plan.n_kv_heads, 8, 32, 64, 100)
    card = DeviceModel(1e9, 1e8, 1e-6)
    result = simulate(plan, tokens, shape, card)
    parts = result.attention_seconds + result.mlp_seconds + result.comm_seconds
    assert result.step_seconds == pytest.approx(parts, rel=1e-12)
    embedding = shape.vocab_size * shape.hidden_size * shape.element_bytes  # stored twice, read once
    busiest = float(result.device_bytes.max()) - embedding
    assert result.step_seconds >= busiest / card.bandwidth * (1 - 1e-9)
    assert (result.comm_seconds == 0) == (plan.n_devices == 1)
    assert result.tokens_per_second * result.step_seconds == pytest.approx(plan.batch_size)


@settings(max_examples=30, deadline=None)
@given(loads=st.lists(st.integers(0, 99).map(float), min_size=1, max_size=8), count=st.integers(1, 3))
def test_exact_assignment_equals_brute_force_up_to_eight_heads(loads, count):
    best = {"free": float("inf"), "equal": float("inf")}
    for devices in itertools.product(range(count), repeat=len(loads)):
        sums, sizes = [0.0] * count, [0] * count
        for load, device in zip(loads, devices, strict=True):
            sums[device] += load
            sizes[device] += 1
        best["free"] = min(best["free"], max(sums))
        if len(set(sizes)) == 1:
            best["equal"] = min(best["equal"], max(sums))
    for kind in ("free", "equal") if len(loads) % count == 0 else ("free",):
        devices = assign(loads, count, method="exact", cardinality=kind)
        assert max(sum(w for w, d in zip(loads, devices, strict=True) if d == g) for g in range(count)) == best[kind]


@settings(max_examples=25, deadline=None)
@given(loads=st.lists(st.integers(1, 40).map(float), min_size=2, max_size=4), copies=st.integers(0, 2))
def test_copies_come_close_to_brute_force(loads, copies):
    """Two devices, rows of three: every way to share the rows, at most ``copies`` heads on both."""
    best = float("inf")
    for rows in itertools.product(range(4), repeat=len(loads)):
        if sum(0 < r < 3 for r in rows) <= copies:
            first = sum(w * r / 3 for w, r in zip(loads, rows, strict=True))
            best = min(best, max(first, sum(loads) - first))
    found = float(_solve([loads], 2, batch_size=3, copies=copies).makespans([loads])[0])
    assert best * (1 - 1e-9) <= found <= best * 1.15


def _document(**changes):
    document = json.loads(contiguous_plan(2, 2, 2, 3).to_json())
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_document(format="septet.headplan/9"), "septet.headplan/9"),
        (_document(n_layers=5), "n_layers = 5 but holds 2"),
        (_document(n_kv_heads=1), "n_kv_heads = 1 but holds 2"),
        (_document(n_devices=1), "layer 0, head 1: device 1 of a plan for 1"),
        (_document(batch_size=4), "layer 0, head 0: rows"),
        (_document(layers=[]), "at least one layer"),
        (_document(layers=[[[[0, 0, 3]], [[0, 0, 2]]]]), "layer 0, head 1: rows"),
        (_document(layers=[[[[0, 0]]]]), "no .device, start, stop."),
        (_document(layers=[[[[0.7, 0, 3]]]]), "no .device, start, stop."),
        (_document(layers=[[[["a", 0, 3]]]]), "no .device, start, stop."),
        (_document(layers=[[[[-1, 0, 2], [1, 2, 3]]]]), "device -1 of a plan for 2"),
        (_document(batch_size=4.9), "batch_size is 4.9"),
        (_document(meta="x"), "meta must be a mapping"),
        (_document(layers=7), "is damaged"),
        (_document(n_devices="two"), "n_devices is 'two'"),
        ("[1, 2]", "no plan file"),
        ('{"format": "septet.headplan/1", "layers": [[[[0, 0, 1]]]]}', "lacks n_devices"),
    ],
)
def test_a_damaged_plan_file_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        HeadPlan.from_json(text)


def test_copies_that_no_plan_can_use_cost_nothing():
    loads = [[4.0, 3.0, 2.0, 1.0]]
    assert _solve(loads, 2, batch_size=3, copies=10**9) == _solve(loads, 2, batch_size=3, copies=4)
    with pytest.raises(ValueError, match=r"copies is 1\.5"):
        _solve(loads, 2, batch_size=3, copies=1.5)
    with pytest.raises(ValueError, match="weight_cost is nan"):
        _solve(loads, 2, weight_cost=float("nan"))
    with pytest.raises(ValueError, match=r"load -1\.0 at \[0, 1\]"):
        _solve([[1.0, -1.0]], 2)


def test_a_plan_that_is_no_text_is_named(tmp_path):
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"plan file .*plan\.json"):
        HeadPlan.from_json(tmp_path / "plan.json")


def test_a_plan_path_is_named_in_its_errors(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"format": "septet.headplan/1"')
    with pytest.raises(ValueError, match="must be JSON"):
        HeadPlan.from_json(path)
