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
        self._idle = [0] * n_layers
        """Per layer the tokens that may still be stored before a rule has anything to do."""
        self._rings: list[list[deque[Tensor]]] = [
            [deque(maxlen=getattr(policy, "window", 1)) for _ in range(n_layers)] for policy in policies
        ]

    def start(self, row: int, length: int, stage: tuple[list[int], list[int]]) -> None:
        """Fix the history budgets of a sequence after its prompt: the official rule takes the planned.

        Ours the kept ones.
        """
        policy = self.policies[row]
        planned, stored = stage
        self._idle = [0] * len(self._idle)
        if policy.decode_rule == "official":
            self._budgets[row] = list(planned)
        elif policy.decode_rule == "window":
            window, floor = policy.window, 0 if policy.evicts(length) else policy.capacity - policy.window  # type: ignore[attr-defined]
            self._budgets[row] = [max(n - window, floor) for n in stored]

    def step(self, layer: int, query: Tensor, stored: RaggedLayer, shard: Shard, scale: float | None) -> None:
        """Apply the rules after the attention of new rows, query ``(B, H_q, T, D)``."""
        self._idle[layer] -= query.shape[2]
        if self._idle[layer] >= 0 or all(budget is None for budget in self._budgets) or not shard.heads[layer]:
            return
        awake = {
            row: heads
            for row in range(len(self.policies))
            if self._budgets[row] is not None
            and (heads := shard.local(layer, row))
            and stored.length(row, heads[0]) > self._quiet(row, layer)
        }
        if awake:
            prob = row_probabilities(query, stored, list(awake), scale)
            self._apply(layer, awake, prob, stored)
        self._idle[layer] = self._headroom(layer, stored, shard)

    def _apply(self, layer: int, awake: dict[int, list[int]], prob: Tensor, stored: RaggedLayer) -> None:
        """Trim the sequences whose rule asks for it; prob ``(awake rows, h, g, T, n)``."""
        keep: list[list[Tensor | None]] = [[None] * stored.n_kv_heads for _ in self.policies]
        trims = False
        for (row, heads), of_row in zip(awake.items(), prob, strict=True):
            rule = self._official if self.policies[row].decode_rule == "official" else self._window
            length = stored.length(row, heads[0])
            local = of_row if len(heads) == len(of_row) else of_row[heads]
            slots = rule(row, layer, local[..., :length])
            for h, chosen in zip(heads, slots or [], strict=bool(slots)):
                keep[row][h], trims = chosen, True
        if trims:
            stored.compact(keep)

    def _headroom(self, layer: int, stored: RaggedLayer, shard: Shard) -> int:
        """Tokens that every sequence may store before its rule scores or trims."""
        rooms = [
            self._quiet(row, layer) - stored.length(row, heads[0])
            for row in range(len(self.policies))
            if self._budgets[row] is not None and (heads := shard.local(layer, row))
        ]
        return max(0, min(rooms, default=0))

    def _quiet(self, row: int, layer: int) -> int:
        """Greatest length of a layer at which the rule of a sequence does nothing."""
        policy, budget = self.policies[row], self._budgets[row][layer]  # type: ignore[index]
        if policy.decode_rule == "official":
            return int(budget + policy.window)  # type: ignore[attr-defined]
        return int(budget + policy.decode_slack)  # type: ignore[attr-defined]

    def _official(self, row: int, layer: int, prob: Tensor) -> list[Tensor]:
        """Slots to keep by the newest row alone, prob ``(h, g, T, n)``."""
        policy, budget, length = self.policies[row], self._budgets[row][layer], prob.shape[-1]  # type: ignore[index]
        window: int = policy.window  # type: ignore[attr-defined]
        prob = prob[..., -1, : length - window]
        score = pool(prob, policy.kernel_size).mean(1)  # type: ignore[attr-defined]
        tail = torch.arange(length - window, length, device=score.device)
        return [torch.cat([ranked(head, budget), tail]) for head in score]

    def _window(self, row: int, layer: int, prob: Tensor) -> list[Tensor] | None:
        """Remember the new rows; slots to keep once ``decode_slack`` tokens too many are stored."""
        policy, budget, length = self.policies[row], self._budgets[row][layer], prob.shape[-1]  # type: ignore[index]
        window: int = policy.window  # type: ignore[attr-defined]
        ring, limit = self._rings[row][layer], budget + window + policy.decode_slack  # type: ignore[attr-defined]
        ring.extend(prob.unbind(2))
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


def row_probabilities(query: Tensor, stored: RaggedLayer, rows: list[int], scale: float | None) -> Tensor:
    """Softmax of the newest rows over the slots of their sequences, all heads in one product.

    Args:
        query: ``(B, H_q, T, D)``, the last ``T`` stored tokens; ``H_q`` counts the query heads of all local KV heads.
        stored: the layer.
        rows: sequences, ascending.
        scale: of the logits.

    Returns:
        ``(rows, H_kv, g, T, n)`` fp32, ``n`` the longest segment; zero behind the end of a shorter one.
    """
    everything = len(rows) == stored.batch_size
    slots, live = stored.padded_slots(None if everything else rows)
    keys = stored.flat[0][slots].float()
    count, dim = query.shape[2], query.shape[3]
    chosen = query if everything else query[rows]
    grouped = chosen.float().reshape(len(keys), stored.n_kv_heads, -1, dim)
    logits = (grouped @ keys.transpose(2, 3)) * (dim**-0.5 if scale is None else scale)
    logits = logits.unflatten(2, (-1, count))
    if count > 1:
        lengths = live.sum(-1)[..., None, None]
        steps = torch.arange(count, device=keys.device)[:, None]
        allowed = torch.arange(keys.shape[2], device=keys.device) < lengths - (count - 1 - steps)
        logits = logits.masked_fill(~allowed[:, :, None], float("-inf"))
    else:
        logits = logits.masked_fill(~live[:, :, None, None], float("-inf"))
    return torch.softmax(logits, -1)
