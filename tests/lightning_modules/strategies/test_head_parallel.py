"""A model cut over processes gives the logits and the kept positions of the single process."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tests.support.processes import run_processes

from septet.kernels.placement import HeadPlan, Replica, contiguous_plan, solve
from septet.kernels.policies import build_policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies import parallelise
from septet.lightning_modules.strategies.placement_record import placement_record

CONFIG = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=50, n_layers=3, n_heads=8, n_kv_heads=4, qkv_bias=True
)
BATCH, LENGTH, STEPS = 3, 40, 8
POLICIES = {
    "full": {"name": "full"},
    "cake": {"name": "cake", "window": 8, "capacity": 20},
    "snapkv": {"name": "snapkv", "window": 8, "capacity": 20},
    "adakv": {"name": "adakv", "window": 8, "capacity": 20},
    "pyramidkv": {"name": "pyramidkv", "window": 8, "capacity": 20},
    "h2o": {"name": "h2o", "window": 8, "capacity": 20},
    "streamingllm": {"name": "streamingllm", "sinks": 4, "capacity": 20},
}

COUPLED = ["full", "cake", "adakv"]


def _plans(world: int) -> dict[str, HeadPlan]:
    loads = torch.tensor([[9.0, 1.0, 1.0, 1.0], [1.0, 5.0, 5.0, 1.0], [1.0, 1.0, 1.0, 12.0]])
    plans = {"copies": solve(loads, world, batch_size=BATCH, copies=2)}
    if 4 % world == 0:
        plans["contiguous"] = contiguous_plan(3, 4, world, BATCH)
    idle = ((Replica(0, 0, BATCH),),) * 4
    split = ((Replica(0, 0, 1), Replica(world - 1, 1, 3)),) * 4 if world > 1 else idle
    plans["idle rank"] = HeadPlan(world, BATCH, (idle, split, idle))
    return plans


def _model() -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(CONFIG, prefill_chunk=16).eval()


def _run(model: CausalLM, policy: str) -> tuple[np.ndarray, dict[tuple[int, int, int], list[int]], int]:
    """Logits of the prompt's end and of the steps; positions kept by (layer, row, global head); KV bytes."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(1, 64, (BATCH, LENGTH), generator=generator)
    mask = torch.ones_like(prompt)
    mask[1, :7] = 0
    cache = model.new_cache(build_policy(POLICIES[policy]), BATCH)
    kept = {}
    with torch.no_grad():
        logits = [model(prompt, cache=cache, attention_mask=mask, last_only=True)]
        for _ in range(STEPS):
            logits.append(model(torch.randint(1, 64, (BATCH, 1), generator=generator), cache=cache))
    for layer in range(CONFIG.n_layers):
        for index, head in enumerate(cache.shard.heads[layer]):
            for row in range(BATCH):
                positions = cache.positions(layer, row, index).tolist()
                if positions:
                    kept[layer, row, head] = sorted(positions)
    return torch.cat(logits, 1).numpy(), kept, cache.memory_bytes()


def _worker(rank: int, world: int, names: list[str]) -> list[tuple[str, str, np.ndarray, dict, int, int]]:
    out = []
    for label, plan in _plans(world).items():
        model = parallelise(_model(), plan)
        weights = sum(p.numel() for p in model.layers.parameters())
        out += [(label, name, *_run(model, name), weights) for name in names]
    return out


def _check_parity(ranks: list[list[tuple]], names: list[str]) -> None:
    """Logits and kept positions of every plan and policy equal those of one process."""
    single = {name: _run(_model(), name) for name in names}
    assert len(ranks[0]) >= len(names)
    for entries in zip(*ranks, strict=True):
        label, name = entries[0][:2]
        logits, kept, size = single[name]
        joined: dict[tuple[int, int, int], list[int]] = {}
        for _, _, theirs, positions, _, _ in entries:
            scale = np.maximum(1.0, np.abs(logits))
            assert np.max(np.abs(theirs - logits) / scale) < 1e-5, (label, name)
            assert not set(joined) & set(positions), "each (row, head) lies on one rank"
            joined |= positions
        assert joined == kept, (label, name)
        assert sum(e[4] for e in entries) == size, "KV bytes do not grow"


def _bad() -> list[str]:
    found = []
    for plan in (contiguous_plan(3, 4, 4, 3), contiguous_plan(2, 4, 2, 3), contiguous_plan(3, 2, 2, 3)):
        try:
            parallelise(_model(), plan)
        except ValueError as error:
            found.append(str(error))
    model = parallelise(_model(), contiguous_plan(3, 4, 2, 3))
    for act in (
        lambda: model.new_cache(build_policy("full"), 2),
        lambda: parallelise(model, contiguous_plan(3, 4, 2, 3)),
    ):
        try:
            act()
        except ValueError as error:
            found.append(str(error))
    return found


def _lazy() -> bool:
    whole = _model()
    state = {(n if n.startswith("lm_head") else f"model.{n}"): p for n, p in whole.named_parameters()}
    with torch.device("meta"):
        empty = CausalLM(CONFIG)
    cut = parallelise(empty, contiguous_plan(3, 4, 2, BATCH)).to_empty(device="cpu")
    cut.reset_rope()
    cut.load_hf_state_dict(state)
    other = parallelise(whole, contiguous_plan(3, 4, 2, BATCH))
    return all(torch.equal(a, b) for a, b in zip(cut.parameters(), other.parameters(), strict=True))


def _wrong_weights() -> list[str]:
    """A tensor that is missing, and one of another model."""
    state = {(n if n.startswith("lm_head") else f"model.{n}"): p for n, p in _model().named_parameters()}
    cut = parallelise(_model(), contiguous_plan(3, 4, 2, BATCH))
    name, found = "model.layers.1.mlp.up_proj.weight", []
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        {**state, name: torch.zeros(25, 32)},
    ):
        try:
            cut.load_hf_state_dict(wrong)
        except ValueError as error:
            found.append(str(error))
    return found


def _met() -> dict[str, object]:
    """What the caches file of two batches, under a plan with copies."""
    plan = _plans(2)["copies"]
    model = parallelise(_model(), plan)
    shard, sizes = model.shard, []
    for seed in (1, 2):
        prompt = torch.randint(1, 64, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))
        cache = model.new_cache(build_policy(POLICIES["adakv"]), BATCH)
        with torch.no_grad():
            model(prompt, cache=cache, last_only=True)
            sizes.append(cache.memory_bytes())
            model(prompt[:, :1], cache=cache)
    met = shard.met["adakv-20"]
    record = placement_record(plan, shard, None, 0.0)["policies"]["adakv-20"]
    tokens = shard.complete(met)
    again = shard.complete(met)
    return {
        "sizes": sizes, "filed": met.kv_bytes, "tokens": tokens.numpy(), "again": again.numpy(), "record": record,
        "expected": plan.loads(BATCH * tokens).sum(dim=0).numpy() * 2 * 4 * 4,
        "masks": [cache._mask(layer) is None for layer in range(3)],
    }  # fmt: skip


def _everything(rank: int, world: int) -> dict[str, object]:
    return {
        "worker": _worker(rank, world, list(POLICIES)), "bad": _bad(), "lazy": _lazy(), "wrong": _wrong_weights(),
        "met": _met(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def two():
    """Results of two processes, by rank."""
    return run_processes(2, _everything)


def test_any_plan_on_one_process_equals_the_whole_model():
    _check_parity(run_processes(1, _worker, COUPLED), COUPLED)


def test_any_plan_on_two_processes_equals_one(two):
    _check_parity([found["worker"] for found in two], list(POLICIES))


def test_any_plan_on_four_processes_equals_one(four):
    _check_parity([found["worker"] for found in four], COUPLED)


def test_weights_grow_by_the_copies_only(two):
    whole = sum(p.numel() for p in _model().layers.parameters())
    norms = sum(p.numel() for n, p in _model().layers.named_parameters() if "norm" in n)
    group = 2 * 4 * 32 + 2 * 4 + 2 * (4 * 32 + 4) + 2 * 4 * 32  # q, k, v with biases, o of one KV head
    plans = _plans(2)
    for entries in zip(*(found["worker"] for found in two), strict=True):
        label = entries[0][0]
        assert sum(e[5] for e in entries) == whole + norms + sum(plans[label].copies) * group, label


def test_plans_that_do_not_fit_are_named(two):
    found = two[0]["bad"]
    assert "4 devices" in found[0]
    assert "2 processes" in found[0]
    assert "2 layers x 4" in found[1]
    assert "3 layers x 2" in found[2]
    assert "batch_size=3" in found[3]
    assert "cut already" in found[4]


def test_a_meta_model_is_cut_before_its_slices_are_read(two):
    assert [found["lazy"] for found in two] == [True, True]


def test_weights_that_do_not_fit_are_named(two):
    missing, other = two[1]["wrong"]
    assert "lacks model.layers.1.mlp.up_proj.weight" in missing
    assert "has shape (25, 32), the model expects (50, 32)" in other


def test_kept_tokens_and_bytes_are_filed_after_the_prompt(two):
    first, second = (found["met"] for found in two)
    for found in (first, second):
        assert found["filed"] == found["sizes"]
        np.testing.assert_array_equal(found["tokens"], found["again"])
        np.testing.assert_array_equal(found["tokens"], first["tokens"])
    assert first["tokens"].shape == (3, 4)
    np.testing.assert_allclose(first["tokens"].sum(axis=1), 80, atol=4)
    measured = first["record"]["kv_bytes_per_device"]
    assert measured == [sum(f["sizes"]) / 2 for f in (first, second)]
    assert sum(measured) == pytest.approx(first["expected"].sum())
    np.testing.assert_allclose(first["record"]["kv_bytes_of_loads_met"], first["expected"])
    assert first["masks"] == [all(k == 0 for k in _heads_cut(layer)) for layer in range(3)]


def _heads_cut(layer: int) -> list[int]:
    """For each head that rank 0 holds in a layer, whether rows of it lie elsewhere."""
    heads = _plans(2)["copies"].layers[layer]
    return [len(head) - 1 for head in heads if any(r.device == 0 for r in head)]


WIDE = DecoderConfig(vocab_size=64, hidden_size=16, intermediate_size=10, n_layers=2, n_heads=4, n_kv_heads=2)


def _more_devices_than_heads(world: int) -> list[tuple[np.ndarray, list[int]]]:
    out = []
    for copies in (None, 0, 2):
        torch.manual_seed(0)
        model = CausalLM(WIDE).eval()
        if copies is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plan = solve([[4.0, 4.0], [3.0, 3.0]], world, batch_size=2, copies=copies)
            parallelise(model, plan)
        prompt = torch.randint(1, 64, (2, 20), generator=torch.Generator().manual_seed(3))
        cache = model.new_cache(build_policy({"name": "adakv", "window": 4, "capacity": 10}), 2)
        with torch.no_grad():
            logits = [model(prompt, cache=cache, last_only=True), model(prompt[:, :1], cache=cache)]
        out.append((torch.cat(logits, 1).numpy(), [len(heads) for heads in cache.shard.heads]))
    return out


def _of_four(rank: int, world: int) -> dict[str, object]:
    return {"worker": _worker(rank, world, COUPLED), "wide": _more_devices_than_heads(world)}


@pytest.fixture(scope="module")
def four():
    """Results of four processes, by rank."""
    return run_processes(4, _of_four)


def test_more_devices_than_heads_leave_some_idle_or_share_rows(four):
    ranks = [found["wide"] for found in four]
    for (whole, _), (alone, few), (shared, more) in ranks:
        np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(shared, whole, rtol=1e-5, atol=1e-5)
        assert max(few) <= 1
        assert more == [1, 1], "with two copies every process serves a row of a head"
    assert sum(sum(entries[1][1]) for entries in ranks) == 4, "without copies two of four are idle in each layer"


def test_without_processes_there_is_a_clear_error():
    with pytest.raises(RuntimeError, match="init_process_group"):
        parallelise(_model(), contiguous_plan(3, 4, 1))
