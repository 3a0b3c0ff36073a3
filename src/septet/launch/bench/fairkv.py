"""``septet bench fairkv``: solver times, and simulated steps of plain TP against placed and copied heads."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.kernels.placement import (
    DeviceModel,
    HeadPlan,
    ModelShape,
    contiguous_plan,
    duo_tokens,
    group_mean,
    headkv_tokens,
    read_profile,
    simulate,
    solve,
)

LLAMA3_8B = ModelShape(
    n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_size=4096, intermediate_size=14336, vocab_size=128256
)
H200 = DeviceModel(bandwidth=4.3e12, link_bandwidth=400e9, link_latency=3e-6)
_SCORES = "long_context/heads/headkv_retrieval_reasoning_mean_scores.npz"
_GATES = "long_context/heads/duo_Meta-Llama-3.1-8B-Instruct.tsv"


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of the solver and of the simulator; ``device`` plays no part, nothing here runs on a GPU."""
    rows = _solver_rows(quick)
    budgets, batches = ((1024,), (8, 32)) if quick else ((1024, 4096, 16384), (8, 32, 128))
    for budget in budgets:
        for batch in batches:
            for profile, tokens in _profiles(budget).items():
                if profile == _main_profile() or (budget, batch) == (4096, 128):
                    for count in (4,) if quick else (2, 4, 8):
                        rows += table(profile, tokens, budget, batch, count)
    for count in () if quick else (16, 32):
        tokens = _profiles(4096)[_main_profile()]
        rows += table(_main_profile(), tokens, 4096, 128, count, copies=(count - 8,))
    return rows


def _main_profile() -> str:
    """The published profile of the README's table where its file lies, else the generated one."""
    return list(_profiles(1024))[min(1, len(_profiles(1024)) - 1)]


def _profiles(budget: int) -> dict[str, Tensor]:
    """Kept tokens per sequence ``(32, 8)``: published scores and gates where they lie, a generated profile always."""
    root = Path(os.environ.get("SEPTET_DATA", "data"))
    found = {"generated": generated_profile(budget)}
    if (root / _SCORES).is_file():
        scores = read_profile(root / _SCORES, "Meta_Llama_3_8B_Instruct")
        found["headkv_llama3_8b"] = group_mean(headkv_tokens(scores, capacity=budget), 8)
    if (root / _GATES).is_file():
        found["duo_llama31_8b"] = duo_tokens(read_profile(root / _GATES), length=2 * budget)
    return found


def generated_profile(budget: int, seed: int = 0) -> Tensor:
    """A skewed profile like AdaKV's: a floor of 20 % of the budget, the rest by random shares ``(32, 8)``."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(32, 8, generator=generator, dtype=torch.float64) ** 3
    share /= share.sum(dim=1, keepdim=True)
    return torch.round(8 * budget * (0.8 * share + 0.2 / 8))


def table(
    profile: str, tokens: Tensor, budget: int, batch: int, count: int, copies: tuple[int, ...] = (1, 2, 4)
) -> list[dict[str, Any]]:
    """One cell of the README's table: plain TP, assignment only, then with copies."""
    cost = LLAMA3_8B.head_weight_bytes / (2 * LLAMA3_8B.head_dim * LLAMA3_8B.element_bytes)
    loads = batch * tokens
    plans: dict[str, HeadPlan] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # idle GPUs without copies are part of the table
        if tokens.shape[1] % count == 0:
            plans["standard TP"] = contiguous_plan(tokens.shape[0], tokens.shape[1], count, batch)
        plans["assignment only"] = solve(loads, count, batch_size=batch, weight_cost=cost)
        for k in copies:
            plans[f"+{k} copies"] = solve(loads, count, batch_size=batch, copies=k, weight_cost=cost)
    base = simulate(next(iter(plans.values())), tokens, LLAMA3_8B, H200)
    rows = []
    for label, plan in plans.items():
        result = simulate(plan, tokens, LLAMA3_8B, H200)
        gain = base.attention_seconds / result.attention_seconds
        rows.append(
            {
                "name": f"{profile} budget {budget} batch {batch} TP {count}: {label}",
                "value": result.step_seconds * 1e3, "unit": "ms per step (simulated)",
                "peer": next(iter(plans)), "peer_value": base.step_seconds * 1e3,
                "ratio": base.step_seconds / result.step_seconds, "limit": "",
                "note": f"U {result.utilisation:.2f}, attention {gain:.2f}x",
                "utilisation": result.utilisation, "attention_ms": result.attention_seconds * 1e3,
                "attention_ratio": gain,
                "tokens_per_second": result.tokens_per_second, "gib_per_gpu": float(result.device_bytes.max()) / 2**30,
            }
        )  # fmt: skip
    return rows


def _solver_rows(quick: bool) -> list[dict[str, Any]]:
    """Wall seconds of the solver on large models."""
    cases = [("80 layers x 8 heads, 8 GPUs", 80, 8, 8, 4, 5.0), ("32 layers x 32 heads, 8 GPUs", 32, 32, 8, 4, 10.0)]
    rows = []
    for name, layers, heads, count, copies, target in cases:
        layers = layers // 8 if quick else layers
        generator = torch.Generator().manual_seed(0)
        loads = torch.rand(layers, heads, generator=generator, dtype=torch.float64) ** 3 * 8192 + 64
        start = time.perf_counter()
        plan = solve(loads, count, batch_size=8, copies=copies)
        rows.append(
            {
                "name": f"solve {name}, up to {copies} copies", "value": time.perf_counter() - start, "unit": "s",
                "peer": "", "peer_value": None, "ratio": None, "limit": f"target < {target} s",
                "note": f"utilisation {plan.utilisation(loads):.3f}",
            }
        )  # fmt: skip
    return rows
