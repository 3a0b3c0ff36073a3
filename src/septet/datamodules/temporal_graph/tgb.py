"""TGB's evaluation: a fixed list of negative destinations per positive (Huang et al., NeurIPS 2023)."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.events import EventStream
from septet.datamodules.temporal_graph.splits import Splits

Lists = Mapping[tuple[int, int, int], Any]
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}


class _Restricted(pickle.Unpickler):
    """Builds numpy arrays and numbers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise ValueError(
            f"the list asks for {module}.{name}: a negative list holds numpy arrays only; do not load this file"
        )


def load_lists(path: str | Path) -> Lists:
    """Lists of a TGB pickle: ``(source, destination, time) -> destinations``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds anything but numpy arrays, integers, tuples and mappings.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no negative list {path}: fetch it with the TGB set, or drop the setting")
    try:
        lists = _Restricted(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path}: not a pickle of negative lists: {error or type(error).__name__}") from error
    if not isinstance(lists, dict):
        raise ValueError(
            f"{path} holds a {type(lists).__name__}, expected a mapping (source, destination, time) -> ids"
        )
    return lists


def listed_negatives(
    lists: Lists,
    src: Tensor,
    dst: Tensor,
    time: Tensor,
    *,
    id_base: int = 0,
    num_nodes: int | None = None,
    name: str = "the negative lists",
) -> tuple[Tensor, Tensor]:
    """Negatives ``(E, K)`` of positives; where a list is shorter than the longest, 0 ("no node") marks the rest.

    Args:
        lists: see :func:`load_lists`; ids from ``id_base``.
        src: sources ``(E,)``, ids from 1.
        dst: destinations ``(E,)``.
        time: times ``(E,)``.
        id_base: first id of the lists.
        num_nodes: largest id of the stream; None: not checked.
        name: of the lists, for messages.

    Raises:
        ValueError: a positive has no list, an empty one, or one that holds fractions, unknown ids or the positive.
    """
    shift, rows = 1 - id_base, []
    for u, v, t in zip(src.tolist(), dst.tolist(), time.tolist(), strict=True):
        key = (u - shift, v - shift, t)
        if key not in lists:
            raise ValueError(
                f"{name}: no negatives are listed for the positive {key}: is the list of this split and version?"
            )
        rows.append(_row(np.asarray(lists[key]), shift, v, num_nodes, f"{name}: the list of the positive {key}"))
    padded = np.zeros((len(rows), max(len(r) for r in rows)), dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    neg_dst = torch.from_numpy(padded)
    return src.unsqueeze(1).expand_as(neg_dst).contiguous(), neg_dst


def _row(given: np.ndarray, shift: int, positive: int, num_nodes: int | None, name: str) -> np.ndarray:
    """One list ``(K,)`` in the ids of the stream, checked."""
    if given.size == 0:
        raise ValueError(f"{name} is empty")
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {given.shape} and type {given.dtype}: expected a row of whole ids")
    row: np.ndarray = given.astype(np.int64) + shift
    outside = (row < 1) | (row > (num_nodes or np.iinfo(np.int64).max))
    if outside.any():
        last = "" if num_nodes is None else f"..{num_nodes - shift}"
        raise ValueError(f"{name} holds the id {given[outside][0]}: the stream has {1 - shift}{last}")
    if (row == positive).any():
        raise ValueError(f"{name} holds the positive's own destination {positive - shift}: it is no negative")
    return row


def list_path(pattern: str, split: str) -> str:
    """``pattern`` with its ``{split}`` filled in.

    Raises:
        ValueError: no ``{split}``, or other fields.
    """
    try:
        paths = [pattern.format(split=name) for name in (split, "another")]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"negative_lists={pattern!r}: only {{split}} may stand in braces") from error
    if paths[0] == paths[1]:
        raise ValueError(f"negative_lists={pattern!r} names one file for val and test: write {{split}} in its name")
    return paths[0]


def hist_rnd_lists(stream: EventStream, splits: Splits, part: str, number: int, seed: int = 0) -> Lists:
    """Lists by TGB's rule ``hist_rnd``: up to half from the source's training destinations, the rest random.

    No entry is a positive of the same source and time; entries of one list are distinct.

    Args:
        stream: the events.
        splits: its parts.
        part: ``val`` or ``test``.
        number: negatives per positive.
        seed: of the draws.

    Raises:
        ValueError: fewer distinct destinations than a list needs.
    """
    rng = np.random.default_rng(seed)
    everyone = torch.unique(stream.dst).numpy()
    train, at = splits.train, getattr(splits, part)
    history: dict[int, set[int]] = {}
    for u, v in zip(stream.src[train].tolist(), stream.dst[train].tolist(), strict=True):
        history.setdefault(u, set()).add(v)
    events = list(zip(stream.src[at].tolist(), stream.dst[at].tolist(), stream.time[at].tolist(), strict=True))
    positive: dict[tuple[int, float], set[int]] = {}
    for u, v, t in events:
        positive.setdefault((u, t), set()).add(v)
    lists = {}
    for u, v, t in events:
        banned = positive[u, t]
        known = np.array(sorted(history.get(u, set()) - banned), dtype=np.int64)
        old = rng.choice(known, min(number // 2, len(known)), replace=False)
        rest = np.setdiff1d(everyone, np.concatenate([known, np.array(sorted(banned), dtype=np.int64)]))
        if len(rest) < number - len(old):
            raise ValueError(
                f"{number} negatives asked, {len(rest) + len(old)} destinations possible: lower num_negatives"
            )
        lists[u, v, t] = np.concatenate([old, rng.choice(rest, number - len(old), replace=False)])
    return lists
