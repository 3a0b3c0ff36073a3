from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.policies import CAKE, allocate, headkv_table, preference, replay
from septet.kernels.policies.allocation import pyramid_budget
from septet.kernels.policies.scores import LayerScore

PREFERENCES = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.integers(0, 5).map(float)), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=200)
@given(PREFERENCES, st.integers(0, 400), st.integers(0, 120))
def test_divisor_sums_and_never_grows(values, total, cap):
    before = None
    for count in range(1, len(values) + 1):
        budgets = allocate(values[:count], total, cap)
        assert sum(budgets) == min(total, count * cap)
        assert all(0 <= b <= cap for b in budgets)
        if before is not None:
            assert all(now <= then for now, then in zip(budgets, before, strict=False))
        before = budgets


@settings(deadline=None, max_examples=60)
@given(PREFERENCES, st.integers(1, 200), st.floats(0.01, 1000))
def test_divisor_is_fair(values, total, scale):
    """No seat could move to a layer with a larger quotient (the definition of D'Hondt)."""
    budgets = allocate(values, total, total)
    if max(values) == 0:
        assert max(budgets) - min(budgets) <= 1
        return
    for i, own in enumerate(budgets):
        for j, other in enumerate(budgets):
            if own > 0 and values[i] > 0:
                assert values[i] / own >= values[j] / (other + 1)
    scaled = allocate([v * 2.0**7 for v in values], total, total)
    assert scaled == budgets


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.05, 8.0), min_size=2, max_size=5), st.integers(9, 60), st.integers(0, 2**31))
def test_cascade_equals_one_shot(sharpness, capacity, seed):
    torch.manual_seed(seed)
    layers = len(sharpness)
    q = torch.randn(layers, 1, 4, 90, 8) * torch.tensor(sharpness)[:, None, None, None, None]
    k = torch.randn(layers, 1, 2, 90, 8)
    results = [replay(CAKE(capacity, window=8, tau1=0.4, tau2=0.5, cascade=cascade), q, k) for cascade in (True, False)]
    for layer in range(layers):
        for head in range(2):
            assert results[0].kept[layer][0][head].tolist() == results[1].kept[layer][0][head].tolist()
    assert (results[0].stage_budgets[0, -1] == results[1].stage_budgets[0, -1]).all()


@dataclass(frozen=True)
class Given(CAKE):
    """CAKE with given preferences and scores, ties included, in place of those of an attention."""

    given: tuple[float, ...] = ()
    seed: int = 0

    def preferences(self, scores):
        return list(self.given[: len(scores)])

    def score(self, query, key, layer, heads):
        generator = torch.Generator().manual_seed(self.seed * 1_009 + layer)
        return LayerScore(torch.randint(7, (key.shape[1], key.shape[2] - self.window), generator=generator).float())


@settings(deadline=None, max_examples=150)
@given(PREFERENCES, st.integers(3, 70), st.integers(0, 30), st.integers(0, 2**31))
def test_cascade_equals_one_shot_for_any_preferences(values, capacity, floor, seed):
    """Spec, section 7.2: trimming after every layer keeps what one trim at the end keeps, and no budget ever grows."""
    q, k = torch.ones(len(values), 1, 2, 40, 2), torch.ones(len(values), 1, 2, 40, 2)
    options = {"window": 2, "given": tuple(values), "seed": seed, "min_layer_budget": min(floor, capacity - 2)}
    cascade, once = (replay(Given(capacity, cascade=mode, **options), q, k) for mode in (True, False))
    for ours, theirs in zip(cascade.kept, once.kept, strict=True):
        assert [head.tolist() for head in ours[0]] == [head.tolist() for head in theirs[0]]
    for layer in range(len(values)):
        stored = cascade.stage_lengths[0, layer:, layer]
        assert (stored.diff() <= 0).all()


def test_allocate_with_huge_and_tiny_preferences():
    values = preference(torch.tensor([1e3, 2e3, 1e-3]), torch.tensor([5.0, 1e-4, 1e-5]), 0.01, 0.01)
    assert torch.isfinite(values).all()
    assert sum(allocate(values, 50, 40)) == 50
    assert allocate([0.0, 0.0, 0.0], 10, 10) == [4, 3, 3]


def test_allocate_on_many_layers_is_exact():
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 3, 80)
    budgets, cap = allocate(values.tolist(), 80 * 992, 30_000), 30_000
    lowest = min(v / b for v, b in zip(values, budgets, strict=True) if b)
    assert all(v / (b + 1) <= lowest for v, b in zip(values, budgets, strict=True) if b < cap)
    assert sum(budgets) == 80 * 992


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 5, 5), "at least one layer"),
        (([1.0, -1.0], 5, 5), "negative"),
        (([1.0, float("nan")], 5, 5), "NaN"),
        (([1.0], -1, 5), "total = -1"),
        (([1.0], 1, -5), "cap = -5"),
    ],
)
def test_allocate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate(*arguments)


def test_allocate_refuses_rounding():
    with pytest.raises(ValueError, match="unknown rounding 'floor'"):
        allocate([1.0], 1, 1, rounding="floor")


def test_pyramid_budgets_fall():
    budgets = [pyramid_budget(layer, 8, 1000, 120, 8) for layer in range(8)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] == 2 * 120 - 6
    assert pyramid_budget(3, 8, 239, 120, 8) == 120
    assert pyramid_budget(0, 1, 1000, 120, 8) == 120


def test_headkv_table():
    scores = np.array([[1.0, 3.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]])
    table = headkv_table(scores, 2, capacity=32, window=8, beta=1.2)
    pool, floor = int(24 // 1.2) * 8, 24 - int(24 // 1.2)
    per_head = np.round(scores / 8 * pool + floor)
    assert table.tolist() == per_head.reshape(2, 2, 2).mean(-1).round().astype(int).tolist()
    for bad, heads, capacity, message in (
        (scores[0], 2, 32, "must be"),
        (-scores, 2, 32, "must be"),
        (scores, 3, 32, "do not divide"),
        (scores, 2, 8, "must exceed"),
    ):
        with pytest.raises(ValueError, match=message):
            headkv_table(bad, heads, capacity)
