"""``septet bench fairkv``: solver times, utilisation against its limit, simulated steps of placed and copied heads."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from septet.kernels.placement import HeadPlan, Simulation, contiguous_plan, lower_bound, simulate, solve
from septet.lightning_modules.strategies.sweeps import H200, LLAMA3_8B, profiles, quiet_solve

TARGETS = {("HeadKV Llama-3-8B", 4, 2): 0.96, ("HeadKV Llama-3-8B", 8, 4): 0.85}
"""Least utilisation asked for by profile, devices and copies."""


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of the solver and of the simulator; ``device`` plays no part, nothing here runs on a GPU."""
    rows = _solver_rows(quick)
    for profile, tokens in profiles(1024).items():
        for count, copies in ((4, (2,)),) if quick else ((4, (1, 2, 4)), (8, (1, 2, 4))):
            rows += [utilisation_row(profile, tokens, count, k) for k in (0, *copies)]
    main = list(profiles(1024))[-1 if len(profiles(1024)) == 1 else 1]
    budgets, batches = ((1024,), (8, 32)) if quick else ((1024, 4096, 16384), (8, 32, 128))
    for budget in budgets:
        for batch in batches:
            for profile, tokens in profiles(budget).items():
                if profile == main or (budget, batch) == (4096, 128):
                    for count in (4,) if quick else (2, 4, 8):
                        rows += table(profile, tokens, budget, batch, count)
    for count in () if quick else (16, 32, 64):
        rows += table(main, profiles(4096)[main], 4096, 128, count, copies=(min(count - 8, 24),))
    return rows


def utilisation_row(profile: str, tokens: Tensor, count: int, copies: int, batch: int = 8) -> dict[str, Any]:
    """Utilisation of KV alone beside standard TP, the bound that no plan passes, and the target where one is set."""
    loads = batch * tokens
    used = quiet_solve(loads, count, batch, copies).utilisation(loads)
    plain = contiguous_plan(tokens.shape[0], tokens.shape[1], count, batch).utilisation(loads)
    bound = sum(lower_bound(layer, count, batch_size=batch, copies=copies) for layer in loads)
    target = TARGETS.get((profile, count, copies))
    verdict = "" if target is None else f"target {target}: {'reached' if used >= target else 'missed'}"
    return {
        "name": f"utilisation {profile} TP {count}, {copies} copies, batch {batch} (simulated, KV alone)",
        "value": used, "unit": "", "peer": "standard TP", "peer_value": plain, "ratio": used / plain,
        "limit": f"<= {float(loads.sum()) / count / bound:.3f} (lower bound)", "note": verdict,
    }  # fmt: skip


def table(
    profile: str, tokens: Tensor, budget: int, batch: int, count: int, copies: tuple[int, ...] = (1, 2, 4)
) -> list[dict[str, Any]]:
    """One cell of the README's table: plain TP, assignment only, then with copies."""
    cost = LLAMA3_8B.head_weight_bytes / (2 * LLAMA3_8B.head_dim * LLAMA3_8B.element_bytes)
    loads = batch * tokens
    plans: dict[str, HeadPlan] = {}
    if tokens.shape[1] % count == 0:
        plans["standard TP"] = contiguous_plan(tokens.shape[0], tokens.shape[1], count, batch)
    plans["assignment only"] = quiet_solve(loads, count, batch, 0, cost)
    for k in copies:
        plans[f"+{k} copies"] = quiet_solve(loads, count, batch, k, cost)
    base = simulate(next(iter(plans.values())), tokens, LLAMA3_8B, H200)
    prefix = f"{profile} budget {budget} batch {batch} TP {count}"
    return [
        _row(f"{prefix}: {label}", next(iter(plans)), base, simulate(plan, tokens, LLAMA3_8B, H200))
        for label, plan in plans.items()
    ]


def _row(name: str, peer: str, base: Simulation, result: Simulation) -> dict[str, Any]:
    """A simulated step; its limit is the step of a perfect balance without copies."""
    gain = base.attention_seconds / result.attention_seconds
    limit = result.step_seconds - result.attention_seconds * (1 - result.utilisation)
    return {
        "name": name, "value": result.step_seconds * 1e3, "unit": "ms per step (simulated)",
        "peer": peer, "peer_value": base.step_seconds * 1e3, "ratio": base.step_seconds / result.step_seconds,
        "limit": f">= {limit * 1e3:.2f} ms (perfect balance)",
        "note": f"U {result.utilisation:.2f}, attention {gain:.2f}x",
        "utilisation": result.utilisation, "attention_ms": result.attention_seconds * 1e3, "attention_ratio": gain,
        "tokens_per_second": result.tokens_per_second, "gib_per_gpu": float(result.device_bytes.max()) / 2**30,
    }  # fmt: skip


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
