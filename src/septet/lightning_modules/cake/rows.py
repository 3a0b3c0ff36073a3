"""Finished cells as plain rows: of the grid's file, of predictions.csv, of the hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from septet.kernels.policies import Policy, policy_spec
from septet.lightning_modules.cake.evaluation import Cell
from septet.lightning_modules.cake.metrics import score_answer


def stored_row(cell: Cell, batch: Mapping[str, Any], row: int, label: str, answer: str | None) -> dict[str, Any]:
    """A cell of a test as it is stored.

    Args:
        cell: the result.
        batch: of ``LongContextText``.
        row: of the batch.
        label: of the policy.
        answer: generated text; None where the answers were fed.
    """
    accuracy = cell.hits
    if answer is not None:
        accuracy = score_answer(batch["task"][row], answer, batch["answers"][row], batch["all_classes"][row])
    depth = float(batch["depth"][row])
    stored = {key: value for key, value in cell.as_dict().items() if key not in ("policy", "tokens", "hits")}
    return {
        "policy": label,
        "sample": batch["sample"][row],
        "length": int(batch["length"][row]),
        "prompt_tokens": int(((batch["labels"][row] < 0) & batch["attention_mask"][row].bool()).sum()),
        "depth": None if math.isnan(depth) else depth,
        "accuracy": accuracy,
        "answer": answer or "",
        **{key: None if isinstance(v, float) and math.isnan(v) else v for key, v in stored.items()},
    }


def answer_row(cell: Cell, batch: Mapping[str, Any], row: int, answer: str, prompt_tokens: int) -> dict[str, Any]:
    """A row of predictions.csv; with the expected answers and their score where the prompt came with any."""
    out = {
        "sample": batch["sample"][row],
        "policy": cell.policy,
        "answer": answer,
        "prompt_tokens": prompt_tokens,
        "kv_bytes": cell.kv_bytes,
    }
    if not math.isnan(cell.kl):
        out["kl"] = cell.kl
    if batch["answers"][row]:
        out["expected"] = " | ".join(batch["answers"][row])
        out["accuracy"] = score_answer(batch["task"][row], answer, batch["answers"][row], batch["all_classes"][row])
    return out


def mean(values: Sequence[float | None]) -> float:
    """Mean of the known values, NaN without any."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def plain_spec(policy: Any) -> Any:
    """A policy as it was written in the configuration, or as a plain mapping."""
    if isinstance(policy, str):
        return policy
    return policy_spec(policy) if isinstance(policy, Policy) else dict(policy)


def plain(shape: dict[str, Any]) -> dict[str, Any]:
    """A decoder's shape with plain containers."""
    scaling = shape.get("rope_scaling")
    return {**shape, "rope_scaling": None if scaling is None else dict(scaling)}
