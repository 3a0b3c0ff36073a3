"""Evaluation of a model that is cut over processes: whole batches, one cache per policy, no shared prefill."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from septet.kernels.policies import Policy
from septet.lightning_modules.cake.evaluation import Cell, labels_of
from septet.lightning_modules.cake.generation import feed, generate
from septet.lightning_modules.cake.model import CausalLM

NAN = float("nan")


def sharded_cells(
    model: CausalLM, batch: Mapping[str, Any], policies: Sequence[Policy], stop_ids: Sequence[int] = ()
) -> tuple[list[list[Cell]], list[list[float]]]:
    """Every policy on a batch; all ranks get the same cells.

    Args:
        model: after ``parallelise``; its shard fixes the batch size, smaller batches are padded by their last row.
        batch: of ``LongContextText``: ``input_ids``, ``labels``, ``attention_mask`` ``(B, T)``, ``max_new_tokens``.
        policies: the cells.
        stop_ids: ids that end an answer.

    Returns:
        ``[policy][row]`` cells (without KL and recall) and ``[policy][device]`` live KV bytes of the batch.

    Raises:
        ValueError: for a batch larger than the plan's.
    """
    size, count = int(model.shard.batch_size), len(batch["input_ids"])  # type: ignore[union-attr]
    if count > size:
        raise ValueError(f"batch of {count} under a plan for batch_size={size}; set the data's batch_size to {size}")
    rows = [min(row, count - 1) for row in range(size)]
    cells, sizes = [], []
    for policy, label in zip(policies, labels_of(policies), strict=True):
        cache = model.new_cache(policy, size)
        if batch["max_new_tokens"]:
            ids, mask = left_padded([prompt_of(batch, row) for row in rows])
            tokens = generate(model, ids, cache, batch["max_new_tokens"], attention_mask=mask, stop_ids=stop_ids)
            hits = [NAN] * size
        else:
            tokens, hits = [[] for _ in rows], _fed_hits(model, batch, rows, cache)
        per_device = model.shard.per_device(cache.memory_bytes())  # type: ignore[union-attr]
        share = int(sum(per_device) / size)
        cells.append([Cell(label, tokens[r], hits[r], NAN, NAN, share, share, NAN, NAN) for r in range(count)])
        sizes.append(per_device)
    return cells, sizes


def prompt_of(batch: Mapping[str, Any], row: int) -> Tensor:
    """A row's tokens before its first answer token, without padding ``(T,)``."""
    real = batch["attention_mask"][row].bool()
    ids, labels = batch["input_ids"][row][real], batch["labels"][row][real]
    answer = torch.nonzero(labels >= 0).flatten()
    prompt: Tensor = ids[: int(answer[0])] if len(answer) else ids
    return prompt


def left_padded(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask ``(B, T)``, padded with 0 at the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=prompts[0].device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _fed_hits(model: CausalLM, batch: Mapping[str, Any], rows: Sequence[int], cache: Any) -> list[float]:
    """Compress each row before its first question, feed the rest together, share of answers predicted right."""
    prompts, rests, labels = [], [], []
    for row in rows:
        real = batch["attention_mask"][row].bool()
        ids, wanted = batch["input_ids"][row][real], batch["labels"][row][real]
        start = int(torch.nonzero(wanted >= 0).flatten()[0]) - 2
        prompts.append(ids[:start])
        rests.append(ids[start:])
        labels.append(wanted[start:])
    if len({len(rest) for rest in rests}) > 1:
        raise ValueError("rows of one batch ask different numbers of questions; use batch_size 1 on one device")
    ids, mask = left_padded(prompts)
    with torch.no_grad():
        model(ids, cache=cache, attention_mask=mask, last_only=True)
        predicted = feed(model, cache, torch.stack(rests)).argmax(-1)
    hits = []
    for row, wanted in enumerate(labels):
        asked = torch.nonzero(wanted >= 0).flatten()
        hits.append(float((predicted[row, asked - 1] == wanted[asked]).float().mean()))
    return hits
