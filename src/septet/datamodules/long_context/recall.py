"""Associative recall for a small vocabulary: random key/value pairs, a noise haystack, questions about some keys."""

from typing import NamedTuple

import torch
from torch import Tensor

N_NOISE, N_KEYS, N_VALUES = 32, 32, 32
QUESTION = 96
PAD = 97
VOCABULARY = 98
IGNORE = -100


class Stage(NamedTuple):
    """One step of the curriculum: sequence length, pairs, sequences per batch, accuracy that ends it."""

    length: int
    n_pairs: int
    batch_size: int
    threshold: float
    haystack: bool


CURRICULUM = (
    Stage(32, 6, 64, 0.95, False),
    Stage(64, 16, 48, 0.95, False),
    Stage(128, 16, 24, 0.985, True),
    Stage(256, 24, 16, 0.985, True),
    Stage(512, 32, 8, 0.995, True),
)


def _generator(*numbers: int) -> torch.Generator:
    state = 0
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (2**62)
    return torch.Generator().manual_seed(state)


def _pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distinct keys and any values."""
    keys = torch.randperm(N_KEYS, generator=generator)[:count] + N_NOISE
    values = torch.randint(N_VALUES, (count,), generator=generator) + N_NOISE + N_KEYS
    return keys, values


def repeated_pairs(stage: Stage, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``key value key value ...`` with repetitions.

    The loss is on the value of every key seen before, ``(T,)`` each.
    """
    keys, values = _pairs(stage.n_pairs, generator)
    drawn = torch.randint(stage.n_pairs, (stage.length // 2,), generator=generator)
    ids = torch.stack([keys[drawn], values[drawn]], 1).flatten()
    labels = torch.full_like(ids, IGNORE)
    seen = (drawn[:, None] == drawn[None]).tril(-1).any(1)
    labels[1::2] = torch.where(seen, values[drawn], IGNORE)
    return ids, labels


def haystack_questions(
    length: int, n_pairs: int, n_questions: int, generator: torch.Generator, listed: bool = True
) -> tuple[Tensor, Tensor]:
    """Noise with pairs at even offsets, the asked keys as a list.

    Then ``Q key value`` in another order, ``(T,)`` each.
    """
    keys, values = _pairs(n_pairs, generator)
    context = length - n_questions * (4 if listed else 3)
    ids = torch.randint(N_NOISE, (context,), generator=generator)
    slots = torch.randperm(context // 2, generator=generator)[:n_pairs] * 2
    ids[slots], ids[slots + 1] = keys, values
    asked = torch.randperm(n_pairs, generator=generator)[:n_questions]
    order = asked[torch.randperm(n_questions, generator=generator)]
    questions = torch.stack([torch.full_like(order, QUESTION), keys[order], values[order]], 1).flatten()
    parts = [ids, keys[asked], questions] if listed else [ids, questions]
    labels = torch.full((length,), IGNORE)
    labels[length - 3 * n_questions + 2 :: 3] = values[order]
    return torch.cat(parts), labels


def training_batch(stage_index: int, epoch: int, index: int, seed: int, n_questions: int = 8) -> dict[str, Tensor]:
    """Batch of a curriculum stage, a pure function of its arguments: input_ids and labels ``(B, T)``."""
    stage = CURRICULUM[stage_index]
    generator = _generator(seed, stage_index, epoch, index)
    rows = []
    for _ in range(stage.batch_size):
        if stage.haystack:
            rows.append(haystack_questions(stage.length, stage.n_pairs, n_questions, generator))
        else:
            rows.append(repeated_pairs(stage, generator))
    ids, labels = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def evaluation_row(index: int, length: int, n_questions: int, seed: int, listed: bool = True) -> tuple[Tensor, Tensor]:
    """One evaluation sequence, a pure function of (seed, index)."""
    n_pairs = min(N_KEYS, max(n_questions, length // 16))
    return haystack_questions(length, n_pairs, n_questions, _generator(seed, 991, index), listed)
