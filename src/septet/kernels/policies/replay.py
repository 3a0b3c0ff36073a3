"""Run a policy on recorded queries and keys, without a model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from septet.kernels.policies.base import ALL_ROWS, Policy
from septet.kernels.policies.cake import CAKE


@dataclass
class Replay:
    """What a policy did.

    Attributes:
        kept: positions in cache order after the prefill, ``[layer][batch][head]`` int64.
        decode_kept: the same after each decode step, ``[step][layer][batch][head]``.
        stage_lengths: stored tokens (the longest head) after each stage, ``(B, L, L)``, -1 where unseen.
        preference: CAKE's preferences ``(B, L)`` float64, else None.
        stage_budgets: CAKE's history budgets ``(B, L, L)``, ``capacity - window`` while nothing was trimmed, else None.
    """

    kept: list[list[list[Tensor]]]
    decode_kept: list[list[list[list[Tensor]]]]
    stage_lengths: Tensor
    preference: Tensor | None
    stage_budgets: Tensor | None


def replay(policy: Policy, queries: Tensor, keys: Tensor, prompt_length: int | None = None) -> Replay:
    """Feed recorded tensors through a compressed cache: the prompt at once, the rest token by token.

    Args:
        policy: any policy.
        queries: ``(L, B, H_q, T, D)``, rotated.
        keys: ``(L, B, H_kv, T, D)``, rotated.
        prompt_length: tokens of the prompt; default ``T``.

    Returns:
        Kept positions, stage lengths, budgets and preferences.

    Raises:
        ValueError: tensors that do not fit together or a prompt length outside 1..T.
    """
    from septet.kernels.cache.compressed import CompressedCache

    total = keys.shape[3]
    length = total if prompt_length is None else prompt_length
    if queries.ndim != 5 or keys.ndim != 5 or queries.shape[:2] != keys.shape[:2] or queries.shape[3] != total:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} must share (L, B) and T")
    if not 1 <= length <= total:
        raise ValueError(f"prompt_length = {length} must lie between 1 and {total}")
    n_layers, batch, n_kv_heads = keys.shape[0], keys.shape[1], keys.shape[2]
    cache = CompressedCache(policy, n_layers, n_kv_heads, batch)
    for layer in range(n_layers):
        rows = keys[layer, :, :, :length]
        cache.prefill(layer, queries[layer, :, :, :length], rows, rows)
    kept, lengths, budgets = _positions(cache), _stages(cache, 1), _stages(cache, 0)
    decoded = []
    for step in range(length, total):
        for layer in range(n_layers):
            row = keys[layer, :, :, step : step + 1]
            cache.attention(layer, queries[layer, :, :, step : step + 1], row, row)
        decoded.append(_positions(cache))
    chosen = isinstance(policy, CAKE)
    preference = (
        _preference(policy, queries[..., :length, :], keys[..., :length, :]) if isinstance(policy, CAKE) else None
    )
    return Replay(kept, decoded, lengths, preference, budgets if chosen else None)


def _positions(cache: object) -> list[list[list[Tensor]]]:
    from septet.kernels.cache.compressed import CompressedCache

    assert isinstance(cache, CompressedCache)
    return [
        [[cache.positions(layer, b, h) for h in range(cache.n_kv_heads)] for b in range(cache.batch_size)]
        for layer in range(cache.n_layers)
    ]


def _stages(cache: object, part: int) -> Tensor:
    from septet.kernels.cache.compressed import CompressedCache

    assert isinstance(cache, CompressedCache)
    table = torch.full((cache.batch_size, cache.n_layers, cache.n_layers), -1, dtype=torch.int64)
    for row, stages in enumerate(cache.stages):
        for stage, entry in enumerate(stages):
            table[row, stage, : stage + 1] = torch.tensor(entry[part])
    return table


def _preference(policy: CAKE, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Preferences of the prompt, also where it is too short to be trimmed; None for a prompt below two tokens."""
    rows, heads = policy.rows(keys.shape[3]), range(keys.shape[2])
    if rows < 2 or rows == ALL_ROWS:
        return None
    table = [
        policy.preferences(
            [policy.score(q[b : b + 1, :, -rows:], k[b : b + 1], 0, heads) for q, k in zip(queries, keys, strict=True)]
        )
        for b in range(keys.shape[1])
    ]
    return torch.tensor(table, dtype=torch.float64)
