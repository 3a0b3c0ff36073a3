import json

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.kernels.policies import CAKE, AdaKV, FullCache
from septet.lightning_modules.cake.generation import feed, generate
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig, rope_frequencies

TINY = DecoderConfig(31, 32, 48, 3, 4, 2)


def model_of(config=TINY, seed=0):
    torch.manual_seed(seed)
    return CausalLM(config).eval()


@pytest.mark.parametrize("name", ["e2e_gqa_cascade", "e2e_gqa_oneshot"])
def test_golden_forward_and_decode(name):
    data = np.load(golden("cake", f"{name}.npz"))
    meta = json.loads(str(data["meta"]))
    state = {key[2:]: torch.tensor(data[key]) for key in data.files if key.startswith("w.")}
    shape = state["model.layers.0.mlp.gate_proj.weight"].shape
    config = DecoderConfig(
        meta["vocab"],
        shape[1],
        shape[0],
        meta["L"],
        meta["H"],
        meta["KV"],
        head_dim=meta["D"],
        rope_theta=meta["rope_theta"],
    )
    model, ids, length = model_of(config), torch.tensor(data["ids"]), meta["S"]
    model.load_hf_state_dict(state)
    policy = CAKE(meta["cache_size"], window=meta["W"], cascade=meta["cascading"], compat="official")
    cache = model.new_cache(policy)
    with torch.no_grad():
        full = model(ids)[0, length - 1 :]
        rows = [model(ids[:, :length], cache=cache, last_only=True)[0, 0]]
        assert_kept(cache, data, "keep", meta)
        for step in range(meta["steps"]):
            rows.append(model(ids[:, length + step : length + step + 1], cache=cache)[0, 0])
            assert_kept(cache, data, f"dec{step}_keep", meta)
    torch.testing.assert_close(full, torch.tensor(data["logits_full"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.stack(rows), torch.tensor(data["logits_cake"]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(cache.preferences[0], data["pref"], rtol=1e-5)
    assert [stage[0] for stage in cache.stages[0]] == [
        row[: m + 1].tolist() for m, row in enumerate(data["stage_budget"])
    ]
    assert [stage[1] for stage in cache.stages[0]] == [row[: m + 1].tolist() for m, row in enumerate(data["stage_len"])]


def assert_kept(cache, data, prefix, meta):
    for layer in range(meta["L"]):
        for head in range(meta["KV"]):
            assert set(cache.positions(layer, 0, head).tolist()) == set(data[f"{prefix}_l{layer}"][head].tolist())


@pytest.mark.parametrize("chunk", [7, 2048])
def test_full_cache_equals_a_plain_forward(chunk):
    model = model_of()
    model.prefill_chunk = chunk
    ids = torch.randint(31, (2, 40))
    with torch.no_grad():
        whole, cache = model(ids), model.new_cache(FullCache(), 2)
        parts = [model(ids[:, a:b], cache=cache) for a, b in ((0, 30), (30, 31), (31, 35), (35, 40))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", [FullCache(), CAKE(16, window=4), AdaKV(16, 4)], ids=lambda p: p.label)
def test_left_padded_batch(policy):
    model, lengths = model_of(), [50, 33, 9]
    ids, mask = torch.randint(31, (3, 50)), torch.zeros(3, 50, dtype=torch.long)
    for b, count in enumerate(lengths):
        mask[b, 50 - count :] = 1
    together = generate(model, ids, model.new_cache(policy, 3), 40, attention_mask=mask)
    for b, count in enumerate(lengths):
        assert generate(model, ids[b : b + 1, 50 - count :], model.new_cache(policy), 40)[0] == together[b]


def test_prompt_logits_do_not_depend_on_the_policy():
    model, ids = model_of(), torch.randint(31, (1, 60))
    with torch.no_grad():
        whole = model(ids)
        torch.testing.assert_close(model(ids, cache=model.new_cache(CAKE(12, window=4))), whole, rtol=1e-5, atol=1e-5)


def test_feeding_a_block_equals_feeding_tokens():
    model, ids, more = model_of(), torch.randint(31, (1, 60)), torch.randint(31, (1, 45))
    outs = []
    for width in (1, 45):
        cache = model.new_cache(CAKE(16, window=4))
        with torch.no_grad():
            model(ids, cache=cache)
            outs.append(torch.cat([feed(model, cache, part) for part in more.split(width, 1)], 1))
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-4)


def test_generation_stops():
    model, ids = model_of(), torch.randint(31, (1, 20))
    free = generate(model, ids, model.new_cache(FullCache()), 10)[0]
    stopped = generate(model, ids, model.new_cache(FullCache()), 10, stop_ids=[free[4]])[0]
    assert stopped == free[: free.index(free[4])]


def test_rope_scalings():
    plain = rope_frequencies(TINY)
    linear = rope_frequencies(DecoderConfig(31, 32, 48, 3, 4, 2, rope_scaling={"type": "linear", "factor": 4.0}))
    torch.testing.assert_close(linear, plain / 4)
    with pytest.raises(ValueError, match="'yarn' is not supported"):
        rope_frequencies(DecoderConfig(31, 32, 48, 3, 4, 2, rope_scaling={"rope_type": "yarn"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_kv_heads": 3}, "do not divide over 3"),
        ({"hidden_size": 30}, "give head_dim"),
        ({"head_dim": 5}, "must be even"),
        ({"n_layers": 0}, "n_layers = 0"),
    ],
)
def test_config_refuses(options, message):
    base = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 8, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2}
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**{**base, **options})


def test_forward_refuses():
    model, ids = model_of(), torch.randint(31, (2, 10))
    mask = torch.ones(2, 10, dtype=torch.long)
    with pytest.raises(ValueError, match="make a new cache"):
        model(ids, cache=model.new_cache(FullCache(), 3))
    with pytest.raises(ValueError, match="padding_side='left'"):
        model(ids, attention_mask=mask.clone().index_fill_(1, torch.tensor([9]), 0))
    with pytest.raises(ValueError, match="padding_side='left'"):
        model(ids, attention_mask=mask.clone().index_fill_(1, torch.tensor([4]), 0))
    with pytest.raises(ValueError, match="does not fit input_ids"):
        model(ids, attention_mask=mask[:, :5])
    record = model.record_prompt([FullCache()])
    model(ids, cache=record)
    with pytest.raises(ValueError, match="takes no further tokens"):
        model(ids, cache=record)


def test_load_refuses():
    model = model_of()
    state = {
        name if name.startswith("lm_head") else f"model.{name}": value for name, value in model.state_dict().items()
    }
    model.load_hf_state_dict(state)
    with pytest.raises(ValueError, match=r"lacks model.norm.weight"):
        model.load_hf_state_dict({name: value for name, value in state.items() if name != "model.norm.weight"})
    with pytest.raises(ValueError, match="the model expects"):
        model.load_hf_state_dict({**state, "model.norm.weight": torch.ones(3)})
