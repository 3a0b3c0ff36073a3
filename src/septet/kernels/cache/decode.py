"""Eviction while tokens are generated: the official rule (one token per step) and the window rule (in lots)."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from septet.kernels.cache.ragged import RaggedLayer
from septet.kernels.cache.shard import Shard
from septet.kernels.policies.base import Policy
from septet.kernels.policies.scores import pool, ranked


class DecodeEviction:
    """Decode rules of the sequences of a cache.

    "window" keeps the probabilities of the last ``W`` rows per slot in fp32: at most ``W * H_q * n * 4`` bytes per
    layer and sequence, only during the ``W`` steps before a trim (these bytes are not part of ``memory_bytes``).
    """

    def __init__(self, policies: Sequence[Policy], n_layers: int) -> None:
        """Nothing is evicted before ``start``."""
        self.policies = policies
        self._budgets: list[list[int] | None] = [None] * len(policies)
        self._rings: list[list[deque[Tensor]]] = [
            [deque(maxlen=getattr(policy, "window", 1)) for _ in range(n_layers)] for policy in policies
        ]

    def start(self, row: int, length: int, stage: tuple[list[int], list[int]]) -> None:
        """Fix the history budgets of a sequence after its prompt: the official rule takes the planned.

        Ours the kept ones.
        """
        policy = self.policies[row]
        planned, stored = stage
        if policy.decode_rule == "official":
            self._budgets[row] = list(planned)
        elif policy.decode_rule == "window":
            window, floor = policy.window, 0 if policy.evicts(length) else policy.capacity - policy.window  # type: ignore[attr-defined]
            self._budgets[row] = [max(n - window, floor) for n in stored]

    def step(self, layer: int, query: Tensor, stored: RaggedLayer, shard: Shard, scale: float | None) -> None:
        """Apply the rules after the attention of new rows, query ``(B, H_q, T, D)``."""
        if all(budget is None for budget in self._budgets) or not shard.heads[layer]:
            return
        keep: list[list[Tensor | None]] = [[None] * stored.n_kv_heads for _ in self.policies]
        for row, policy in enumerate(self.policies):
            heads = shard.local(layer, row)
            if self._budgets[row] is None or not heads:
                continue
            if policy.decode_rule == "official":
                slots = self._official(row, layer, query, stored, heads, scale)
            else:
                slots = self._window(row, layer, query, stored, heads, scale)
            for h, chosen in zip(heads, slots or [], strict=bool(slots)):
                keep[row][h] = chosen
        stored.compact(keep)

    def _official(
        self, row: int, layer: int, query: Tensor, stored: RaggedLayer, heads: list[int], scale: float | None
    ) -> list[Tensor] | None:
        policy, budget, length = self.policies[row], self._budgets[row][layer], stored.length(row, heads[0])  # type: ignore[index]
        window: int = policy.window  # type: ignore[attr-defined]
        if length <= budget + window:
            return None
        prob = row_probabilities(query[row, :, -1:], stored, row, heads, scale)[..., 0, : length - window]
        score = pool(prob, policy.kernel_size).mean(1)  # type: ignore[attr-defined]
        tail = torch.arange(length - window, length, device=score.device)
        return [torch.cat([ranked(head, budget), tail]) for head in score]

    def _window(
        self, row: int, layer: int, query: Tensor, stored: RaggedLayer, heads: list[int], scale: float | None
    ) -> list[Tensor] | None:
        policy, budget, length = self.policies[row], self._budgets[row][layer], stored.length(row, heads[0])  # type: ignore[index]
        window: int = policy.window  # type: ignore[attr-defined]
        ring, limit = self._rings[row][layer], budget + window + policy.decode_slack  # type: ignore[attr-defined]
        if length + window <= limit:
            return None
        for prob in row_probabilities(query[row], stored, row, heads, scale).unbind(2):
            ring.append(prob)
        if length <= limit or len(ring) < 2:
            return None
        rows = torch.stack([torch.nn.functional.pad(prob, (0, length - prob.shape[-1])) for prob in ring])
        score = rows.mean(0) + policy.gamma * rows.var(0)  # type: ignore[attr-defined]
        score = pool(score[..., : length - window], policy.kernel_size).mean(1)  # type: ignore[attr-defined]
        if sinks := getattr(policy, "sinks", 0):
            score[:, :sinks] = torch.finfo(score.dtype).max
        tail = torch.arange(length - window, length, device=score.device)
        slots = [torch.cat([ranked(head, budget).sort().values, tail]) for head in score]
        index = torch.stack(slots)[None, :, None].expand(len(ring), -1, rows.shape[2], -1)
        kept = rows.gather(-1, index)
        ring.clear()
        ring.extend(kept.unbind(0))
        return slots


def row_probabilities(query: Tensor, stored: RaggedLayer, row: int, heads: list[int], scale: float | None) -> Tensor:
    """Softmax of the newest rows of one sequence over its slots.

    Args:
        query: ``(H_q, T, D)``, the last ``T`` stored tokens; ``H_q`` counts the query heads of all local KV heads.
        stored: the layer.
        row: sequence.
        heads: local KV heads that hold it; all equally long.
        scale: of the logits.

    Returns:
        ``(h, g, T, n)`` fp32.
    """
    keys = torch.stack([stored.keys(row, h) for h in heads]).float()
    count, dim = query.shape[1], query.shape[2]
    grouped = query.float().view(stored.n_kv_heads, -1, count, dim)[heads]
    logits = torch.einsum("hgtd,hnd->hgtn", grouped, keys) * (dim**-0.5 if scale is None else scale)
    length = keys.shape[1]
    if count > 1:
        slot = torch.arange(length, device=keys.device)
        limit = torch.arange(length - count, length, device=keys.device)
        logits = logits.masked_fill(slot > limit[:, None], float("-inf"))
    return torch.softmax(logits, -1)
