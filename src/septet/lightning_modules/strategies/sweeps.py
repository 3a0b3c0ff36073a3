"""What placement gains on whole profiles: utilisation against copies, simulated speed-up against batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

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
"""Bandwidth of the data sheet; the link's two numbers are assumed."""

_SCORES = "long_context/heads/headkv_retrieval_reasoning_mean_scores.npz"
_HEADKV = {
    "HeadKV Llama-3-8B": "Meta_Llama_3_8B_Instruct",
    "HeadKV Mistral-7B": "Mistral_7B_Instruct_v0_2",
}
_GATES = "long_context/heads/duo_Meta-Llama-3.1-8B-Instruct.tsv"


def profiles(budget: int, root: Path | None = None) -> dict[str, Tensor]:
    """Kept tokens per sequence ``(32, 8)``: a generated profile, and published ones where their files lie.

    Args:
        budget: mean kept tokens of a head (for DuoAttention's gates: half the length).
        root: data root; default ``$SEPTET_DATA``, else ``data``.
    """
    root = Path(os.environ.get("SEPTET_DATA", "data")) if root is None else root
    found = {"generated": generated_profile(budget)}
    for name, array in _HEADKV.items() if (root / _SCORES).is_file() else ():
        scores = read_profile(root / _SCORES, array)
        found[name] = group_mean(headkv_tokens(scores, capacity=budget), 8)
    if (root / _GATES).is_file():
        found["DuoAttention Llama-3.1-8B"] = duo_tokens(read_profile(root / _GATES), length=2 * budget)
    return found


def generated_profile(budget: int, seed: int = 0) -> Tensor:
    """A skewed profile like AdaKV's: a floor of 20 % of the budget, the rest by random shares ``(32, 8)``."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(32, 8, generator=generator, dtype=torch.float64) ** 3
    share /= share.sum(dim=1, keepdim=True)
    return torch.round(8 * budget * (0.8 * share + 0.2 / 8))


def quiet_solve(loads: Tensor, n_devices: int, batch_size: int, copies: int, weight_cost: float = 0.0) -> HeadPlan:
    """``solve`` without its warnings: idle devices and useless copies are part of a sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(loads, n_devices, batch_size=batch_size, copies=copies, weight_cost=weight_cost)


def utilisation_by_copies(
    tokens: Tensor, n_devices: int, batch_size: int, copies: Sequence[int] = (0, 1, 2, 3, 4), weight_cost: float = 0.0
) -> list[float]:
    """Utilisation of the best plan found with at most so many copies per layer.

    Args:
        tokens: ``(L, H)`` kept tokens per sequence.
        n_devices: G.
        batch_size: rows.
        copies: limits.
        weight_cost: in the unit of the loads, 0 for KV alone.
    """
    loads = batch_size * tokens
    plans = (quiet_solve(loads, n_devices, batch_size, k, weight_cost) for k in copies)
    return [plan.utilisation(loads, weight_cost) for plan in plans]


def speedups(
    tokens: Tensor, n_devices: int, batches: Sequence[int], copies: int, shape: ModelShape = LLAMA3_8B
) -> tuple[list[float], list[float], list[float]]:
    """Standard TP's time over the plan's, per batch: KV alone, attention with weights, the whole simulated step.

    Args:
        tokens: ``(L, H)`` kept tokens per sequence.
        n_devices: G; must divide H.
        batches: batch sizes.
        copies: most copies per layer.
        shape: of the model.
    """
    cost = shape.head_weight_bytes / (2 * shape.head_dim * shape.element_bytes)
    kv, attention, step = [], [], []
    for batch in batches:
        loads = batch * tokens
        plain = contiguous_plan(tokens.shape[0], tokens.shape[1], n_devices, batch)
        light, heavy = (quiet_solve(loads, n_devices, batch, copies, c) for c in (0.0, cost))
        before, after = simulate(plain, tokens, shape, H200), simulate(heavy, tokens, shape, H200)
        kv.append(float(plain.makespans(loads).sum() / light.makespans(loads).sum()))
        attention.append(before.attention_seconds / after.attention_seconds)
        step.append(before.step_seconds / after.step_seconds)
    return kv, attention, step
