"""A KV cache that follows an eviction policy: prefill with cascade, O(1) appends, eviction while decoding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.kernels.attention import append_attention, decode_attention, prefill_attention
from septet.kernels.cache.decode import DecodeEviction
from septet.kernels.cache.ragged import RaggedLayer
from septet.kernels.cache.shard import Shard
from septet.kernels.policies.base import ALL_ROWS, Policy, as_policies
from septet.kernels.policies.cake import CAKE
from septet.kernels.policies.scores import LayerScore

Stage = tuple[list[int], list[int]]


class CompressedCache:
    """Keys and values of all layers under one policy per sequence.

    Every sequence of the batch is treated as if it were alone; left padding is stripped before scoring and never
    stored. Tokens keep their true positions; nothing is re-rotated.

    Args:
        policy: one policy for all sequences, or one per sequence.
        n_layers: layers of the model.
        n_kv_heads: KV heads of the model.
        batch_size: sequences.
        shard: the heads and rows held here; default: all.

    Raises:
        ValueError: batch below 1, a number of policies other than the batch, ``compat`` with a batch above 1, a head
            table of another model.
        TypeError: something that is no policy.
    """

    def __init__(
        self,
        policy: Policy | Sequence[Policy],
        n_layers: int,
        n_kv_heads: int,
        batch_size: int = 1,
        *,
        shard: Shard | None = None,
    ) -> None:
        """Start empty."""
        policies = as_policies(policy) * (batch_size if isinstance(policy, Policy) else 1)
        if batch_size < 1 or len(policies) != batch_size:
            raise ValueError(f"{len(policies)} policies for a batch of {batch_size}; give one, or one per sequence")
        if batch_size > 1 and isinstance(policy, Policy) and policy.score_order:
            raise ValueError(f"compat='official' takes batch_size 1, not {batch_size}; use compat=None")
        for each in policies:
            each.check_model(n_layers, n_kv_heads)
        self.policies = policies
        self.n_layers, self.n_kv_heads, self.batch_size = n_layers, n_kv_heads, batch_size
        self.shard = shard or Shard.whole(n_layers, n_kv_heads)
        self._whole = self.shard.is_whole()
        self.layers: list[RaggedLayer | None] = [None] * n_layers
        self.peak_bytes = 0
        self.stages: list[list[Stage]] = [[] for _ in policies]
        """Per sequence and finished layer: (history budgets, stored tokens) of the layers so far."""
        self.prompt_lengths = [0] * batch_size
        self.preferences: list[list[float] | None] = [None] * batch_size
        """Per sequence CAKE's layer preferences, None for other policies and for prompts that were not trimmed."""
        self._scores: list[list[LayerScore]] = [[] for _ in policies]
        self.memo: dict[tuple[object, ...], LayerScore] | None = None
        """Scores by (layer, sequence, score key), shared by caches of the same prompt (see ``RecordedPrompt``)."""
        self._appended = [0] * n_layers
        self._starts: tuple[object, Tensor] | None = None
        self._next: tuple[object, Tensor] | None = None
        self._masks: dict[int, Tensor | None] = {}
        self._live: int | None = None
        self._decode = DecodeEviction(policies, n_layers)

    @property
    def seen_tokens(self) -> Tensor:
        """Logical length of each sequence without padding, ``(B,)`` int64."""
        return torch.tensor(self.prompt_lengths) + self._appended[0]

    def next_positions(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Positions ``(B, count)`` of the tokens that come next, int64."""
        return self._positions_behind(self._appended[0], count, torch.device(device))

    def _positions_behind(self, appended: int, count: int, device: torch.device) -> Tensor:
        """Positions of ``count`` tokens behind ``appended`` ones; all layers of a step share one tensor."""
        name = (tuple(self.prompt_lengths), device)
        if self._starts is None or self._starts[0] != name:
            self._starts = name, torch.tensor(self.prompt_lengths, device=device)[:, None]
        if self._next is None or self._next[0] != (name, appended, count):
            step = torch.arange(appended, appended + count, device=device)
            self._next = (name, appended, count), self._starts[1] + step
        return self._next[1]

    def layer(self, layer: int) -> RaggedLayer:
        """Storage of a layer after its prefill."""
        stored = self.layers[layer]
        if stored is None:
            raise ValueError(f"layer {layer} holds nothing yet; feed the prompt first")
        return stored

    def is_prefilled(self, layer: int) -> bool:
        """Whether the layer has seen the prompt."""
        return self.layers[layer] is not None

    def lengths(self, layer: int) -> Tensor:
        """Stored tokens, ``(B, H_kv)`` int32."""
        return self.layer(layer).lengths

    def positions(self, layer: int, batch: int, head: int) -> Tensor:
        """Positions of the stored tokens in slot order, ``(n,)`` int64."""
        return self.layer(layer).positions(batch, head)

    def memory_bytes(self) -> int:
        """Bytes of live keys and values, all layers."""
        return sum(layer.memory_bytes() for layer in self.layers if layer is not None)

    def rows_needed(self, lengths: Sequence[int]) -> int:
        """Last query rows of the prompt that the policies score with (``ALL_ROWS`` for all)."""
        rows = [policy.rows(n) if policy.evicts(n) else 0 for policy, n in zip(self.policies, lengths, strict=True)]
        return ALL_ROWS if ALL_ROWS in rows else max(rows)

    def attention(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        pads: Sequence[int] | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of new tokens, stored and evicted on the way.

        The first call of a layer is its prefill and exact; later calls see the compressed cache.

        Args:
            layer: index.
            query: ``(B, H_q, T, D)``, rotated.
            key: ``(B, H_kv, T, D)``, rotated.
            value: ``(B, H_kv, T, D)``.
            pads: left padding of each sequence (prefill only).
            scale: of the logits; default ``D ** -0.5``.

        Returns:
            ``(B, H_q, T, D)``; rows at pads are zero.
        """
        if not self.is_prefilled(layer):
            out = prefill_attention(query, key, value, pads=pads, scale=scale) if query.shape[1] else query
            self.prefill(layer, query, key, value, pads=pads)
            return self.own(layer, out)
        self.append(layer, key, value)
        if not query.shape[1]:
            return query
        stored = self.layer(layer)
        empty = not self._whole
        if query.shape[2] == 1:
            out = decode_attention(query, stored, scale=scale, allow_empty=empty)
        else:
            out = append_attention(query, stored, scale=scale, allow_empty=empty)
        before = stored.memory_bytes()
        self._decode.step(layer, query, stored, self.shard, scale)
        self._account(stored.memory_bytes() - before)
        return out

    def own(self, layer: int, attended: Tensor) -> Tensor:
        """Zero the rows of ``(B, H_q, T, D)`` that another shard serves, so that a sum over shards is right."""
        mask = self._mask(layer)
        if mask is None:
            return attended
        group = attended.shape[1] // max(1, mask.shape[1])
        return attended * mask.to(attended).repeat_interleave(group, 1)[..., None, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store tokens behind the prompt, at the positions that follow."""
        stored = self.layer(layer)
        positions = self._positions_behind(self._appended[layer], key.shape[2], key.device)
        before = stored.memory_bytes()
        stored.append(key, value, positions, self._mask(layer))
        self._appended[layer] += key.shape[2]
        self.peak_bytes = max(self.peak_bytes, self._account(stored.memory_bytes() - before))

    def _account(self, change: int) -> int:
        """Live bytes of all layers after one changed; counted afresh only after a prefill."""
        self._live = self.memory_bytes() if self._live is None else self._live + change
        return self._live

    def _mask(self, layer: int) -> Tensor | None:
        """The (row, local head) pairs that live here, ``(B, h)`` bool, made once; None for all."""
        if self.shard.rows is None:
            return None
        if layer not in self._masks:
            mask = torch.zeros(self.batch_size, len(self.shard.heads[layer]), dtype=torch.bool)
            for row in range(self.batch_size):
                mask[row, self.shard.local(layer, row)] = True
            self._masks[layer] = mask
        return self._masks[layer]

    def prefill(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, pads: Sequence[int] | None = None
    ) -> None:
        """Score a layer's prompt, store what stays and trim the earlier layers (algorithm 1 of CAKE).

        Args:
            layer: index; layers come in order.
            query: the last ``R >= rows_needed`` query rows, ``(B, H_q, R, D)``.
            key: ``(B, H_kv, S, D)``.
            value: same shape.
            pads: left padding of each sequence.

        Raises:
            ValueError: layers out of order, or a batch of another size.
        """
        if key.shape[0] != self.batch_size or any(done is None for done in self.layers[:layer]):
            raise ValueError(
                f"layer {layer}, batch {key.shape[0]}: expected batch {self.batch_size} and layers in order"
            )
        starts = [0] * self.batch_size if pads is None else [int(pad) for pad in pads]
        self.prompt_lengths = [key.shape[2] - start for start in starts]
        self._score(layer, query, key, starts)
        dense = sum(len(self.shard.local(layer, b)) * n for b, n in enumerate(self.prompt_lengths))
        live = self.memory_bytes() + dense * 2 * key.shape[3] * key.element_size()
        self.peak_bytes = max(self.peak_bytes, live)
        keeps = [self._plan(layer, row) for row in range(self.batch_size)]
        for earlier in range(layer):
            self.layer(earlier).compact([keep[earlier] for keep in keeps])
        self._live = None
        self.layers[layer] = RaggedLayer.gather(key, value, [keep[layer] for keep in keeps], starts)
        self._record(layer)

    def _score(self, layer: int, query: Tensor, key: Tensor, starts: Sequence[int]) -> None:
        """Append this layer's score to every sequence's list."""
        local: list[LayerScore | None] = []
        group = query.shape[1] // max(1, key.shape[1])
        for row, start in enumerate(starts):
            policy, length, heads = self.policies[row], self.prompt_lengths[row], self.shard.local(layer, row)
            if not policy.evicts(length):
                local.append(None)
                continue
            if not heads:
                local.append(
                    LayerScore(key.new_zeros((0, length - policy.protected(length, layer)), dtype=torch.float32))
                )
                continue
            rows = policy.rows(length)
            count = length if rows == ALL_ROWS else rows
            q, k = query[row : row + 1, :, query.shape[2] - count :], key[row : row + 1, :, start:]
            if len(heads) < key.shape[1]:
                q = q.unflatten(1, (-1, group))[:, heads].flatten(1, 2)
                k = k[:, heads]
            local.append(self._scored(policy, layer, row, q, k, heads))
        self._couple(layer, local)

    def _scored(self, policy: Policy, layer: int, row: int, query: Tensor, key: Tensor, heads: list[int]) -> LayerScore:
        """The policy's score, taken from the memo where it is known."""
        name = (layer, row, policy.score_key)
        if self.memo is not None and policy.score_key is not None and name in self.memo:
            return self.memo[name]
        score = policy.score(query, key, layer, [self.shard.heads[layer][h] for h in heads])
        if self.memo is not None and policy.score_key is not None:
            self.memo[name] = score
        return score

    def _couple(self, layer: int, local: Sequence[LayerScore | None]) -> None:
        """Complete statistics and scores over the shards and file them."""
        pairs = [(s.dispersion, s.shift) if s is not None else (0.0, 0.0) for s in local]
        totals = self.shard.total(torch.tensor(pairs, dtype=torch.float64)).tolist()
        wanted = [
            s.score if s is not None and p.couples_heads else None for s, p in zip(local, self.policies, strict=True)
        ]
        whole = self.shard.gather(wanted, layer) if any(s is not None for s in wanted) else wanted
        for row, score in enumerate(local):
            if score is None:
                score = LayerScore(torch.empty(0, 0))
            joint = whole[row]
            full = score.score if joint is None else self.policies[row].joint(joint)
            self._scores[row].append(LayerScore(full, *totals[row]))

    def _plan(self, layer: int, row: int) -> list[list[Tensor | None]]:
        """Slots to keep for the layers seen so far of one sequence: ``[layer][local head]``; None is untouched."""
        policy, length = self.policies[row], self.prompt_lengths[row]
        keep: list[list[Tensor | None]] = [[None] * len(heads) for heads in self.shard.heads[: layer + 1]]
        budgets = None
        if policy.evicts(length):
            budgets = policy.layer_budgets(self._scores[row], self.n_layers, length)
        first = layer if not policy.cascading else 0
        for index in range(first, layer + 1):
            local = self.shard.local(index, row)
            if budgets is not None:
                self._trim(policy, row, index, local, budgets[index], keep[index])
            if index == layer:
                for h in set(range(len(keep[index]))) - set(local):
                    keep[index][h] = torch.empty(0, dtype=torch.long)
        nominal = getattr(policy, "capacity", length) - getattr(policy, "window", 0)
        self.stages[row].append((list(budgets) if budgets is not None else [nominal] * (layer + 1), []))
        return keep

    def _trim(
        self, policy: Policy, row: int, layer: int, local: list[int], budget: int, keep: list[Tensor | None]
    ) -> None:
        """Choose the slots of one layer and shorten the stored scores with them."""
        score = self._scores[row][layer].score
        split = policy.head_budgets(score, budget, layer)
        rows = [self.shard.heads[layer][h] for h in local] if policy.couples_heads else list(range(len(local)))
        chosen = [policy.select(score[index], split[index]) for index in rows]
        history = score.shape[1]
        if policy.cascading and all(len(slots) == history for slots in chosen) and not policy.score_order:
            return
        tail = torch.arange(policy.protected(self.prompt_lengths[row], layer), device=score.device)
        for h, slots in zip(local, chosen, strict=True):
            keep[h] = torch.cat([slots, tail + history])
        if policy.cascading and chosen:
            shorter = torch.stack([score[index, slots] for index, slots in zip(rows, chosen, strict=True)])
            self._scores[row][layer] = self._scores[row][layer]._replace(score=shorter)
        elif not policy.cascading:
            self._scores[row][layer] = self._scores[row][layer]._replace(score=score.new_empty(0, 0))

    def _record(self, layer: int) -> None:
        """Note the stored lengths of the stage; after the last layer hand the budgets to the decode rule."""
        for row, stages in enumerate(self.stages):
            stages[-1][1].extend(
                int(self.layer(i).lengths[row].max()) if self.shard.heads[i] else 0 for i in range(layer + 1)
            )
            if layer == self.n_layers - 1:
                self._decode.start(row, self.prompt_lengths[row], stages[-1])
                policy = self.policies[row]
                if isinstance(policy, CAKE) and policy.evicts(self.prompt_lengths[row]):
                    self.preferences[row] = policy.preferences(self._scores[row])
                self._scores[row] = []

    @property
    def appended(self) -> int:
        """Tokens stored behind the prompt so far."""
        return self._appended[0]

    @classmethod
    def concatenate(cls, caches: Sequence["CompressedCache"]) -> "CompressedCache":
        """Join caches of the same model into one batch, each sequence under its own policy.

        Raises:
            ValueError: caches of different depth, or with tokens appended already.
        """
        first = caches[0]
        if any(c.n_layers != first.n_layers or any(c._appended) for c in caches):
            raise ValueError("only fresh caches of the same model can be joined; concatenate before decoding")
        joined = cls(
            [p for c in caches for p in c.policies], first.n_layers, first.n_kv_heads, sum(c.batch_size for c in caches)
        )
        for index in range(first.n_layers):
            parts = [c.layer(index) for c in caches]
            cells = [(p, b) for p in parts for b in range(p.batch_size)]
            heads = range(first.n_kv_heads)
            joined.layers[index] = RaggedLayer(
                [[p.keys(b, h) for h in heads] for p, b in cells],
                [[p.values(b, h) for h in heads] for p, b in cells],
                [[p.positions(b, h) for h in heads] for p, b in cells],
            )
        joined.prompt_lengths = [n for c in caches for n in c.prompt_lengths]
        joined.stages = [s for c in caches for s in c.stages]
        joined.peak_bytes = sum(c.peak_bytes for c in caches)
        for row, stages in enumerate(joined.stages):
            joined._decode.start(row, joined.prompt_lengths[row], stages[-1])
        return joined
