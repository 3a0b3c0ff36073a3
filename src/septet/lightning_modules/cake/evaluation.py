"""All policies on one prompt: one exact prefill, then every (policy, budget) cell from the recorded tensors."""

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from septet.kernels.cache import CompressedCache
from septet.kernels.policies import FullCache, Policy, build_policy, policy_spec, sized_policy
from septet.lightning_modules.cake.generation import feed, greedy
from septet.lightning_modules.cake.model import CausalLM


@dataclass
class Cell:
    """Result of one policy on one prompt.

    Attributes:
        policy: label.
        tokens: generated ids (empty where the answers were fed).
        hits: share of fed answer positions that were predicted right, NaN where the answer was generated.
        kl: KL divergence of the full cache's next-token distribution from this one's, mean over the answer positions,
            nats.
        recall: share of the last prompt rows' attention mass that stays.
        kv_bytes: live bytes of keys and values after the prompt.
        peak_bytes: highest live bytes while the prompt was read.
        prefill_s: seconds that scoring and trimming took.
        tokens_per_s: decode speed of one sequence, NaN where it was not timed.
    """

    policy: str
    tokens: list[int]
    hits: float
    kl: float
    recall: float
    kv_bytes: int
    peak_bytes: int
    prefill_s: float
    tokens_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping."""
        return asdict(self)


@dataclass
class _Prepared:
    """Caches of one prompt under every policy, and the prompt's last logits."""

    caches: list[CompressedCache]
    logits: Tensor
    recalls: list[float]
    seconds: list[float]
    sizes: list[tuple[int, int]]


def labels_of(policies: Sequence[Policy]) -> list[str]:
    """Distinct label of each policy: its own, with the differing options where some share it (``cake-256-tau1=2``)."""
    out: list[str] = []
    for policy in policies:
        peers = [policy_spec(other) for other in policies if other.label == policy.label]
        own = policy_spec(policy)
        differing = [name for name in own if any(peer[name] != own[name] for peer in peers)]
        label = "-".join([policy.label, *(f"{n}={own[n]}" for n in differing if not isinstance(own[n], list))])
        number = out.count(label) + sum(done.startswith(f"{label}#") for done in out) + 1
        out.append(label if number == 1 else f"{label}#{number}")
    return out


def without_capacity(label: str) -> str:
    """A label without its capacity: one name per curve over capacities."""
    return re.sub(r"^([a-z0-9]+)-\d+", r"\1", label)


@torch.no_grad()
def _prepare(model: CausalLM, prompt: Tensor, policies: Sequence[Policy]) -> _Prepared:
    record = model.record_prompt(policies)
    logits = model(prompt, cache=record, last_only=True)[:, -1]
    caches, recalls, seconds, sizes = [], [], [], []
    for policy in policies:
        start = time.perf_counter()
        cache = record.compress(policy)
        seconds.append(time.perf_counter() - start)
        caches.append(cache)
        sizes.append((cache.memory_bytes(), cache.peak_bytes))
        recalls.append(record.attention_recall(cache))
    return _Prepared(caches, logits, recalls, seconds, sizes)


@torch.no_grad()
def fed_cells(model: CausalLM, ids: Tensor, labels: Tensor, policies: Sequence[Policy]) -> list[Cell]:
    """Compress the prompt, then feed the rest and score its labelled positions.

    Args:
        model: the model.
        ids: one sequence ``(T,)`` that ends in questions ``Q key value``; all before the first ``Q`` is the prompt.
        labels: ``(T,)``; -100 off the answers.
        policies: the cells; the first is the reference of the KL divergence (give ``FullCache``).

    Returns:
        One cell per policy.
    """
    asked = torch.nonzero(labels >= 0).flatten()
    start = int(asked[0]) - 2
    prepared = _prepare(model, ids[None, :start], policies)
    cache = CompressedCache.concatenate(prepared.caches)
    logits = feed(model, cache, ids[start:].expand(len(policies), -1))[:, asked - start - 1]
    hits = (logits.argmax(-1) == labels[asked]).float().mean(1)
    divergence = _kl(logits[0], logits)
    return _cells(policies, prepared, [[] for _ in policies], hits.tolist(), divergence, float("nan"))


@torch.no_grad()
def generated_cells(
    model: CausalLM,
    prompt: Tensor,
    policies: Sequence[Policy],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    timed: bool = False,
) -> list[Cell]:
    """Compress the prompt and generate an answer under every policy, all cells as one batch.

    The first answer token comes from the prompt's exact logits, so it is the same in every cell.

    Args:
        model: the model.
        prompt: ``(T,)``.
        policies: the cells; the first is the reference of the KL divergence (give ``FullCache``).
        max_new_tokens: longest answer.
        stop_ids: ids that end an answer.
        timed: also time four decode steps of each cell alone.
    """
    prepared = _prepare(model, prompt[None], policies)
    count, first = len(policies), prepared.logits.argmax(-1)
    tokens = greedy(model, CompressedCache.concatenate(prepared.caches), first.expand(count), max_new_tokens, stop_ids)
    answer = torch.tensor(tokens[0], dtype=torch.long, device=prompt.device)
    divergence = [0.0] * count
    if len(answer):
        logits = feed(model, CompressedCache.concatenate(prepared.caches), answer.expand(count, -1))
        divergence = _kl(logits[0], logits)
    speeds = [_speed(model, cache, first) if timed else float("nan") for cache in prepared.caches]
    cells = _cells(policies, prepared, tokens, [float("nan")] * count, divergence, float("nan"))
    for cell, speed in zip(cells, speeds, strict=True):
        cell.tokens_per_s = speed
    return cells


def _speed(model: CausalLM, cache: CompressedCache, first: Tensor, steps: int = 4) -> float:
    """Decode steps per second of one sequence (the cache is used up)."""
    token = first[:, None]
    model(token, cache=cache, last_only=True)
    start = time.perf_counter()
    for _ in range(steps):
        model(token, cache=cache, last_only=True)
    return steps / (time.perf_counter() - start)


def _kl(reference: Tensor, logits: Tensor) -> list[float]:
    """KL(reference || cell) per cell: ``(T, V)`` and ``(cells, T, V)``, mean over T."""
    log_p, log_q = torch.log_softmax(reference.double(), -1), torch.log_softmax(logits.double(), -1)
    values: list[float] = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1).clamp(min=0).tolist()
    return values


def _cells(
    policies: Sequence[Policy],
    prepared: _Prepared,
    tokens: list[list[int]],
    hits: list[float],
    divergence: list[float],
    speed: float,
) -> list[Cell]:
    names = labels_of(policies)
    return [
        Cell(
            names[i],
            tokens[i],
            hits[i],
            divergence[i],
            prepared.recalls[i],
            *prepared.sizes[i],
            prepared.seconds[i],
            speed,
        )
        for i in range(len(policies))
    ]


def with_reference(policies: Sequence[Policy]) -> list[Policy]:
    """The policies with ``FullCache`` in front, once."""
    return [FullCache(), *(policy for policy in policies if not isinstance(policy, FullCache))]


def at_capacities(specs: Sequence[Any], capacities: Sequence[int] | None) -> list[Policy]:
    """Build each policy, at each capacity if there are any; a repeated one warns and is dropped.

    Args:
        specs: names, mappings or policies, as ``build_policy``.
        capacities: tokens per layer and KV head; None for the policies' own.

    Raises:
        ValueError: an empty list of capacities, or as ``build_policy``.
    """
    if capacities is not None and not capacities:
        raise ValueError("capacities is empty; name at least one, or null for the policies' own")
    out: list[Policy] = []
    for spec in specs:
        sizes = list(dict.fromkeys(capacities or ()))
        built = [sized_policy(spec, size) for size in sizes] if sizes else [build_policy(spec)]
        for policy in dict.fromkeys(built):
            if policy not in out:
                out.append(policy)
            elif not isinstance(policy, FullCache):
                warnings.warn(f"{policy.label} is listed twice with the same options; it is run once", stacklevel=3)
    return out


def smallest(policies: Sequence[Policy]) -> dict[str, Policy]:
    """By label the policies at their smallest capacity, one of each kind (options count), without the full cache."""
    found: dict[str, tuple[str, Policy]] = {}
    for label, policy in zip(labels_of(policies), policies, strict=True):
        kind = without_capacity(label)
        if policy.slug != FullCache.slug and (kind not in found or _capacity(policy) < _capacity(found[kind][1])):
            found[kind] = label, policy
    return dict(found.values())


def _capacity(policy: Policy) -> int:
    return int(getattr(policy, "capacity", 0))


@torch.no_grad()
def compressed(model: CausalLM, prompt: Tensor, policies: Mapping[str, Policy]) -> dict[str, CompressedCache]:
    """Caches of one prompt ``(T,)`` under the named policies, from one prefill."""
    if not policies:
        return {}
    record = model.record_prompt(list(policies.values()))
    model(prompt[None], cache=record, last_only=True)
    return {label: record.compress(policy) for label, policy in policies.items()}
