import json
import warnings

import numpy as np
import pytest
import torch
from tests.support.paths import shared_data

from septet.kernels.policies import (
    CAKE,
    H2O,
    POLICIES,
    TOVA,
    AdaKV,
    DuoAttention,
    FullCache,
    HeadKV,
    KNorm,
    PyramidKV,
    Random,
    SnapKV,
    StreamingLLM,
    build_policy,
    policy_spec,
    replay,
    with_capacity,
)


def tensors(layers=3, batch=1, heads=4, kv=2, length=80, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(layers, batch, heads, length, dim, generator=generator) * 2
    return q, torch.randn(layers, batch, kv, length, dim, generator=generator)


def test_tova_keeps_the_same_tokens_in_every_head():
    q, k = tensors()
    result = replay(TOVA(20), q, k)
    for layer in range(3):
        logits = torch.einsum("hgd,hnd->hgn", q[layer, 0, :, -1].view(2, 2, 8), k[layer, 0]) * 8**-0.5
        mean = torch.softmax(logits, -1).mean((0, 1))[:-1]
        expected = {*mean.topk(19).indices.tolist(), 79}
        assert all(set(kept.tolist()) == expected for kept in result.kept[layer][0])


def test_knorm_keeps_low_norms():
    q, k = tensors()
    kept = replay(KNorm(20, 8), q, k).kept[1][0][0]
    lowest = k[1, 0, 0, :72].norm(dim=-1).topk(12, largest=False).indices
    assert set(kept.tolist()) == {*lowest.tolist(), *range(72, 80)}


def test_random_depends_on_seed_and_head_only():
    q, k = tensors(batch=2)
    first, again, other = (replay(Random(20, 8, seed=s), q, k).kept for s in (0, 0, 1))
    assert first[0][0][0].tolist() == again[0][0][0].tolist() == first[0][1][0].tolist()
    assert first[0][0][0].tolist() != other[0][0][0].tolist()
    assert first[0][0][0].tolist() != first[0][0][1].tolist()


def test_headkv_follows_its_table():
    q, k = tensors()
    table = [[0, 5], [200, 3], [7, 72]]
    result = replay(HeadKV(table, window=8), q, k)
    lengths = [[len(kept) for kept in layer[0]] for layer in result.kept]
    assert lengths == [[8, 13], [80, 11], [15, 80]]


def test_duoattention_streams_the_lowest_gates():
    q, k = tensors(layers=2)
    result = replay(DuoAttention([[0.9, 0.1], [0.2, 0.8]], sparsity=0.5, sinks=4, recent=16), q, k)
    assert [len(kept) for kept in result.kept[0][0]] == [80, 20]
    assert result.kept[1][0][0].tolist() == [*range(4), *range(64, 80)]


def test_head_files_by_path():
    gates = shared_data("long_context/heads/duo_Meta-Llama-3.1-8B-Instruct.tsv")
    duo = build_policy({"name": "duoattention", "gates": str(gates), "sparsity": 0.25})
    assert duo.streaming().shape == (32, 8)
    assert duo.streaming().sum() == 64
    scores = shared_data("long_context/heads/headkv_retrieval_reasoning_mean_scores.npz")
    spec = {"name": "headkv", "scores": f"{scores}:Meta_Llama_3_8B_Instruct", "n_kv_heads": 8, "capacity": 128}
    head = build_policy(spec)
    assert np.shape(head.table) == (32, 8)
    assert abs(np.mean(head.table) - 120) < 1
    with pytest.raises(ValueError, match="name one as"):
        build_policy({**spec, "scores": str(scores)})
    with pytest.raises(ValueError, match="does not exist"):
        DuoAttention("nowhere.tsv")


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"headkv", "duoattention"}))
@pytest.mark.parametrize("length", [1, 3, 8, 9, 20, 28, 29])
def test_short_prompts(name, length):
    """S < W, S = W, S = C, S = C + W and one more: nothing breaks and no budget is exceeded."""
    policy = POLICIES[name]() if name == "full" else with_capacity(_small(name), 20)
    q, k = tensors(length=29)
    result = replay(policy, q[:, :, :, :length], k[:, :, :, :length])
    counts = [len(kept) for layer in result.kept for row in layer for kept in row]
    evicts = policy.evicts(length)
    assert evicts == (name != "full" and length > (28 if name == "cake" else 20))
    if not evicts:
        assert counts == [length] * 6
    else:
        assert sum(counts) <= 20 * 6 + (12 if name == "pyramidkv" else 2)


def _small(name):
    return POLICIES[name](capacity=40) if name in ("streamingllm", "tova") else POLICIES[name](capacity=40, window=8)


def test_cake_options():
    q, k = tensors()
    kept = replay(CAKE(20, window=8, sinks=3, min_layer_budget=2), q, k)
    for layer in kept.kept:
        assert all({0, 1, 2} <= set(head.tolist()) or len(head) < 11 for head in layer[0])
        assert all(len(head) >= 10 for head in layer[0])
    assert sum(len(layer[0][0]) for layer in kept.kept) == 60


def test_fp16_statistics_lose_variance():
    q, k = tensors(layers=1, length=4000)
    official, ours = CAKE(40, window=8, compat="official_fp16"), CAKE(40, window=8)
    scores = [p.score(0.02 * q[0, :, :, -8:], k[0], 0, range(2)) for p in (official, ours)]
    assert scores[0].shift == 0.0
    assert scores[1].shift > 0.0


def test_for_model():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = CAKE.for_model("llama3.1-8b", 1024, window=16)
    assert (policy.tau1, policy.tau2, policy.window) == (1.6, 0.4, 16)
    with pytest.warns(UserWarning, match="that of 128 is used"):
        assert CAKE.for_model("llama3.1-8b", 200).tau2 == 0.6
    with pytest.warns(UserWarning, match="no published tau for 'gpt'"):
        assert CAKE.for_model("gpt", 200).tau1 == 1.0


def test_specs_round_trip_as_plain_types():
    policies = [FullCache(), CAKE(64), SnapKV(64), AdaKV(64, floor=0.5), H2O(64), PyramidKV(64), StreamingLLM(64)]
    for policy in [*policies, HeadKV([[1, 2]]), DuoAttention([[0.5, 0.1]])]:
        spec = policy_spec(policy)
        json.dumps(spec)
        assert build_policy(spec) == policy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CAKE(32, window=32), "capacity 32 must exceed the window 32"),
        (lambda: CAKE(32, window=1), "window >= 2"),
        (lambda: CAKE(64, tau1=0), "tau1 = 0"),
        (lambda: CAKE(64, kernel_size=4), "use 5"),
        (lambda: CAKE(64, decode="lazy"), "unknown decode 'lazy'"),
        (lambda: CAKE(64, compat="v2"), "unknown compat 'v2'"),
        (lambda: CAKE(64, decode_slack=0), "decode_slack = 0"),
        (lambda: CAKE(64, sinks=33), "sinks = 33"),
        (lambda: SnapKV(64, pooling="sum"), "unknown pooling 'sum'"),
        (lambda: SnapKV(64, group_reduce="min"), "unknown group_reduce 'min'"),
        (lambda: AdaKV(64, floor=1.5), "floor = 1.5"),
        (lambda: StreamingLLM(4), "sinks = 4"),
        (lambda: TOVA(1), "capacity = 1"),
        (lambda: HeadKV([[0.5]]), "integers"),
        (lambda: HeadKV([1, 2]), "layers, heads"),
        (lambda: DuoAttention([[1.0]], sparsity=2), "sparsity = 2"),
        (lambda: DuoAttention([[1.0]], recent=0), "recent = 0"),
        (lambda: build_policy("lru"), "choose one of full, cake"),
        (lambda: build_policy({"name": "snapkv", "size": 3}), "its options: capacity"),
        (lambda: replay(HeadKV([[1, 1]]), *tensors()), "1 layers, the model 3"),
        (lambda: replay(HeadKV([[1, 1, 1]] * 3), *tensors()), "3 heads, the model 2"),
        (lambda: replay(CAKE(20, window=8, compat="official"), *tensors(batch=2)), "batch_size 1"),
        (lambda: replay(SnapKV(20, 8), *tensors(), prompt_length=81), "between 1 and 80"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
