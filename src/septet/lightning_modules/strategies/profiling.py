"""Head profiles of a model under a policy, and whether a plan still fits the loads that are met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from septet.kernels.placement import HeadPlan
from septet.kernels.policies.base import Policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig


def weight_cost_in_tokens(config: DecoderConfig) -> float:
    """C of section 2 in tokens of one KV head: ``(g + 1) * hidden`` (the element size cancels)."""
    return (config.n_heads // config.n_kv_heads + 1) * float(config.hidden_size)


def check_profile(profile: Tensor, config: DecoderConfig) -> Tensor:
    """A profile that fits the model.

    Raises:
        ValueError: naming both shapes; one of query heads is offered the group mean. All zeros.
    """
    wanted = (config.n_layers, config.n_kv_heads)
    if not bool((profile > 0).any()):
        raise ValueError("the profile holds no positive number; it gives the kept tokens of each head per sequence")
    if tuple(profile.shape) == wanted:
        return profile.to(torch.float64)
    if tuple(profile.shape) == (config.n_layers, config.n_heads):
        raise ValueError(
            f"profile {tuple(profile.shape)} is per query head, the model has {wanted} KV heads; "
            "take the mean of each group: septet.kernels.placement.group_mean(profile, n_kv_heads)"
        )
    raise ValueError(f"profile {tuple(profile.shape)} does not fit a model of {wanted} (layers, KV heads)")


def profile_heads(module: LightningModule, batches: Iterable[Mapping[str, Any]], policy: Policy) -> Tensor:
    """Mean kept tokens per sequence of each layer and KV head under a policy.

    Args:
        module: with a whole ``CausalLM`` in ``model``.
        batches: with ``input_ids`` ``(B, T)`` and optionally ``attention_mask``.
        policy: whose budgets are met.

    Returns:
        ``(L, H_kv)`` float64.

    Raises:
        ValueError: if there are no batches.
    """
    module.configure_model()
    model = module.model
    assert isinstance(model, CausalLM)
    total = torch.zeros(model.config.n_layers, model.config.n_kv_heads, dtype=torch.float64)
    count = 0
    for batch in batches:
        ids = batch["input_ids"]
        cache = model.new_cache(policy, len(ids))
        with torch.no_grad():
            model(ids, cache=cache, attention_mask=batch.get("attention_mask"), last_only=True)
        for layer in range(model.config.n_layers):
            total[layer] += cache.lengths(layer).sum(dim=0).to(torch.float64).cpu()
        count += len(ids)
    if count == 0:
        raise ValueError("profile_heads got no batches; give about 50 prompts")
    return total / count


def drift(plan: HeadPlan, head_tokens: Tensor, weight_cost: float = 0.0) -> tuple[float, bool]:
    """Utilisation on the loads actually met, and whether it fell below 90 % of the planned one."""
    met = plan.utilisation(plan.batch_size * head_tokens, weight_cost)
    planned = plan.meta.get("utilisation")
    return met, isinstance(planned, float) and met < 0.9 * planned
