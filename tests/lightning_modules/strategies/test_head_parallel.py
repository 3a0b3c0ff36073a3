"""A model cut over processes gives the logits and the kept positions of the single process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.processes import run_processes

from septet.kernels.placement import HeadPlan, Replica, contiguous_plan, solve
from septet.kernels.policies import build_policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies import parallelise

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


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_plan_equals_the_single_process(world):
    names = list(POLICIES) if world == 2 else ["full", "cake", "adakv"]
    single = {name: _run(_model(), name) for name in names}
    ranks = run_processes(world, _worker, names)
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


def test_weights_grow_by_the_copies_only():
    ranks = run_processes(2, _worker, ["full"])
    whole = sum(p.numel() for p in _model().layers.parameters())
    norms = sum(p.numel() for n, p in _model().layers.named_parameters() if "norm" in n)
    group = 2 * 4 * 32 + 2 * 4 + 2 * (4 * 32 + 4) + 2 * 4 * 32  # q, k, v with biases, o of one KV head
    for (label, plan), entries in zip(_plans(2).items(), zip(*ranks, strict=True), strict=True):
        expected = whole + norms + sum(plan.copies) * group
        assert sum(e[5] for e in entries) == expected, label


def _bad(rank: int, world: int) -> list[str]:
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


def test_plans_that_do_not_fit_are_named():
    found = run_processes(2, _bad)[0]
    assert "4 devices" in found[0]
    assert "2 processes" in found[0]
    assert "2 layers x 4" in found[1]
    assert "3 layers x 2" in found[2]
    assert "batch_size=3" in found[3]
    assert "cut already" in found[4]


def test_without_processes_there_is_a_clear_error():
    with pytest.raises(RuntimeError, match="init_process_group"):
        parallelise(_model(), contiguous_plan(3, 4, 1))


def _lazy(rank: int, world: int) -> bool:
    whole = _model()
    state = {(n if n.startswith("lm_head") else f"model.{n}"): p for n, p in whole.named_parameters()}
    with torch.device("meta"):
        empty = CausalLM(CONFIG)
    cut = parallelise(empty, contiguous_plan(3, 4, 2, BATCH)).to_empty(device="cpu")
    cut.reset_rope()
    cut.load_hf_state_dict(state)
    other = parallelise(whole, contiguous_plan(3, 4, 2, BATCH))
    return all(torch.equal(a, b) for a, b in zip(cut.parameters(), other.parameters(), strict=True))


def test_a_meta_model_is_cut_before_its_slices_are_read():
    assert run_processes(2, _lazy) == [True, True]
