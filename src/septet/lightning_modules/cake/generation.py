"""Greedy decoding through compressed caches (pure torch)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.kernels.cache import CompressedCache
from septet.kernels.policies import Policy
from septet.lightning_modules.cake.model import CausalLM


@torch.no_grad()
def greedy(
    model: CausalLM, cache: CompressedCache, first: Tensor, max_new_tokens: int, stop_ids: Sequence[int] = ()
) -> list[list[int]]:
    """Continue every sequence of a filled cache greedily.

    Args:
        model: the model.
        cache: holds the prompts.
        first: first new token of each sequence, ``(B,)`` (the prompt's own logits do not depend on the policy).
        max_new_tokens: tokens per sequence, ``first`` included.
        stop_ids: a token of these ends a sequence (and is left out).

    Returns:
        New tokens of each sequence.
    """
    stop = set(stop_ids)
    current, done = first, [False] * len(first)
    out: list[list[int]] = [[] for _ in done]
    for step in range(max_new_tokens):
        for b, token in enumerate(current.tolist()):
            done[b] = done[b] or token in stop
            if not done[b]:
                out[b].append(token)
        if all(done) or step == max_new_tokens - 1:
            break
        current = model(current[:, None], cache=cache, last_only=True)[:, -1].argmax(-1)
    return out


@torch.no_grad()
def feed(model: CausalLM, cache: CompressedCache, tokens: Tensor) -> Tensor:
    """Logits of given tokens behind the prompt, ``(B, T)`` to ``(B, T, V)``.

    Step by step where a policy evicts in between.
    """
    if all(_stays(policy, cache.appended + tokens.shape[1]) for policy in cache.policies):
        logits: Tensor = model(tokens, cache=cache)
        return logits
    return torch.cat([model(tokens[:, t : t + 1], cache=cache) for t in range(tokens.shape[1])], 1)


def _stays(policy: Policy, appended: int) -> bool:
    """True if the policy evicts nothing while this many tokens follow the prompt."""
    return policy.decode_rule == "none" or (
        policy.decode_rule == "window" and appended <= getattr(policy, "decode_slack", 0)
    )


@torch.no_grad()
def generate(
    model: CausalLM,
    input_ids: Tensor,
    cache: CompressedCache,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    stop_ids: Sequence[int] = (),
) -> list[list[int]]:
    """Read a prompt ``(B, T)`` into an empty cache and continue it greedily.

    Returns the new tokens of each sequence.
    """
    logits = model(input_ids, cache=cache, attention_mask=attention_mask, last_only=True)
    return greedy(model, cache, logits[:, -1].argmax(-1), max_new_tokens, stop_ids)
