import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.kernels.policies import (
    CAKE,
    H2O,
    AdaKV,
    PyramidKV,
    SnapKV,
    StreamingLLM,
    allocate,
    indicator,
    preference,
    replay,
    round_official,
    window_stats,
)
from septet.kernels.policies.scores import group_reduce, pool

FILES = ["mha", "gqa_llama31", "cap", "short"]


def load(name):
    data = np.load(golden("cake", f"{name}.npz"))
    return data, json.loads(str(data["meta"])), torch.tensor(data["q"]), torch.tensor(data["k"])


def same_sets(expected, kept):
    return all(set(e.tolist()) == set(k.tolist()) for e, k in zip(expected, kept, strict=True))


@pytest.mark.parametrize("name", FILES)
def test_statistics_and_indicator(name):
    data, meta, q, k = load(name)
    length, window = meta["S"], meta["W"]
    for layer in range(meta["L"]):
        stats = window_stats(q[layer, :, :, length - window : length], k[layer, :, :, :length])
        np.testing.assert_allclose(stats.dispersion[0], data["H"][layer], rtol=1e-5)
        np.testing.assert_allclose(stats.shift[0], data["V"][layer], rtol=1e-5)
        value = preference(stats.dispersion, stats.shift, meta["tau1"], meta["tau2"])
        np.testing.assert_allclose(value[0], data["P"][layer], rtol=1e-5)
        raw = stats.mean + meta["gamma"] * stats.var
        np.testing.assert_allclose(raw[0], data["indicator_raw"][layer], rtol=1e-5, atol=1e-6)
        pooled = indicator(stats, meta["Hkv"], meta["gamma"])
        np.testing.assert_allclose(pooled[0], data["indicator_pooled"][layer], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["cascade", "oneshot"])
@pytest.mark.parametrize("name", FILES)
def test_official_replay(name, mode):
    data, meta, q, k = load(name)
    if f"{mode}_final_budget" not in data.files:
        pytest.skip(f"{name} has no {mode} arrays")
    options = {key: meta[key] for key in ("tau1", "tau2", "gamma")}
    policy = CAKE(meta["cache_size"], window=meta["W"], cascade=mode == "cascade", compat="official", **options)
    result = replay(policy, q, k, prompt_length=meta["S"])
    np.testing.assert_array_equal(result.stage_budgets[0], data[f"{mode}_stage_budget"])
    np.testing.assert_array_equal(result.stage_lengths[0], data[f"{mode}_stage_len"])
    np.testing.assert_allclose(result.preference[0], data["P"], rtol=1e-5)
    for layer in range(meta["L"]):
        assert same_sets(data[f"{mode}_keep_l{layer}"], result.kept[layer][0])
        for step in range(meta["steps"]):
            name_of = f"{mode}_dec{step}_keep_l{layer}"
            if name_of in data.files:
                assert same_sets(data[name_of], result.decode_kept[step][layer][0])


def test_official_rounding():
    cases = json.loads(golden("cake", "official_rounding.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    assert len(cases) == 200
    for case in cases:
        assert round_official(case["shares"], case["total"], case["cap"]) == case["out"]


def test_divisor_allocation():
    cases = json.loads(golden("cake", "divisor_allocation.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    assert len(cases) == 80
    for case in cases:
        assert allocate(case["preference"], case["total"], case["cap"]) == case["out"]
        for count, stage in enumerate(case["stages"] or [], 1):
            assert allocate(case["preference"][:count], case["total"], case["cap"]) == stage


BASELINES = {
    "snapkv_gqa_mean": lambda c, w: SnapKV(c, w),
    "snapkv_gqa_max": lambda c, w: SnapKV(c, w, group_reduce="max"),
    "pyramidkv_official_gqa_mean": lambda c, w: PyramidKV(c, w),
    "pyramidkv_adakvrepo_gqa_mean": lambda c, w: PyramidKV(c, w),
    "h2o_gqa_mean": lambda c, w: H2O(c, w),
    "streamingllm_sink4": lambda c, w: StreamingLLM(c, sinks=4),
    "snapkv_official_qhead": lambda c, w: SnapKV(c, w),
    "snapkv_official_maxpool7_qhead": lambda c, w: SnapKV(c, w, kernel_size=7, pooling="max"),
}


@pytest.mark.parametrize("key", BASELINES)
@pytest.mark.parametrize("name", ["kv_baselines_gqa", "kv_baselines_mha"])
def test_baselines(name, key):
    data, meta, q, k = load(name)
    if "qhead" in key:
        k = k.repeat_interleave(meta["Hq"] // meta["Hkv"], 2)
    policy = BASELINES[key](meta["capacity"], meta["window"])
    result = replay(policy, q, k)
    for layer in range(meta["L"]):
        expected = data[f"{key}_l{layer}"]
        if "maxpool" in key:  # plateaus of the maximum tie, and a tie may fall either way
            check_ties(policy, q[layer], k[layer], expected, result.kept[layer][0])
        else:
            assert same_sets(expected, result.kept[layer][0])


def check_ties(policy, q, k, expected, kept):
    stats = window_stats(q[:, :, -policy.window :], k)
    scores = pool(group_reduce(stats.mean, k.shape[1]), policy.kernel_size, "max")[0]
    for head, (e, ours) in enumerate(zip(expected, kept, strict=True)):
        for positions in (torch.tensor(e).long(), ours):
            chosen = torch.zeros(k.shape[2], dtype=torch.bool)
            chosen[positions] = True
            history = chosen[: scores.shape[1]]
            assert len(positions) == policy.capacity
            assert scores[head][history].min() >= scores[head][~history].max() - 1e-6


@pytest.mark.parametrize("floor", [0.2, 0.5])
@pytest.mark.parametrize("name", ["kv_baselines_gqa", "kv_baselines_mha"])
def test_adakv(name, floor):
    data, meta, q, k = load(name)
    result = replay(AdaKV(meta["capacity"], meta["window"], floor=floor), q, k)
    for layer in range(meta["L"]):
        prefix = f"adakv_floor{floor}"
        ends = data[f"{prefix}_cuklen_l{layer}"]
        parts = [data[f"{prefix}_flat_l{layer}"][a:b] for a, b in pairwise(ends)]
        assert [len(kept) for kept in result.kept[layer][0]] == data[f"{prefix}_headlens_l{layer}"].tolist()
        assert same_sets(parts, result.kept[layer][0])
