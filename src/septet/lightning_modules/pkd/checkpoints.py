"""Detector weights in and out: mmdet, mmrazor, Lightning and bare files, always ``weights_only=True``."""

import importlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DetectorState:
    """Weights of one detector.

    Attributes:
        state_dict: tensors under the detector's own key names.
        meta: what the file says about itself (empty for bare state dicts).
        origin: ``mmdet``, ``mmrazor``, ``lightning`` or ``state_dict``.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    origin: str = "state_dict"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, from ``meta.dataset_meta`` (or the older ``CLASSES``); empty if not told."""
        content = self.meta.get("dataset_meta")
        named = {**self.meta, **(content if isinstance(content, Mapping) else {})}
        names = next((v for k, v in named.items() if str(k).lower() == "classes"), ())
        return tuple(str(x) for x in names) if isinstance(names, (list, tuple)) else ()


@dataclass(frozen=True)
class LoadReport:
    """Key names of a load, each in exactly one list."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        """One line of counts with the first misfits."""
        parts = [f"{len(self.matched)} keys matched"]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{len(keys)} {name} ({', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''})")
        return ", ".join(parts)


class _HistoryBuffer:
    """Stands in for mmengine's curve buffer, whose content is not needed."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _history_method(owner: type, name: str) -> str:
    """Stands in for ``getattr``, by which curve buffers name their own statistics and nothing else is reached."""
    if owner is not _HistoryBuffer:
        raise pickle.UnpicklingError(f"getattr on {owner!r}")
    return name


def _allowed() -> list[Any]:
    """Harmless types that trainer files hold beside tensors, also under numpy 1 names."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    dtypes = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")]
    renamed = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    buffer = (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer")
    return [np.ndarray, np.dtype, *dtypes, *renamed, buffer, (_history_method, "builtins.getattr")]


def _reason(error: Exception) -> str:
    """The telling line of torch's long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("WeightsUnpickler error")]
    return (telling or lines or [type(error).__name__])[0]


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(_allowed()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file provokes: KeyError, UnpicklingError, EOFError ...
        raise ValueError(
            f"{path} was refused: no weights-only torch file (arbitrary pickles are never executed; read are "
            f"checkpoints of mmdet, mmrazor and Lightning, and bare state dicts): {_reason(error)}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict")
    return content


def _tensors(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    plain = {k.removeprefix("module."): v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}


def _select(content: Mapping[str, Any], part: str, path: Path) -> tuple[dict[str, Tensor], str]:
    nested = content.get("state_dict")
    state = _tensors(nested if isinstance(nested, Mapping) else content)
    if "pytorch-lightning_version" in content:
        if part == "teacher":
            raise ValueError(f"{path} is a Lightning checkpoint, which never holds teachers; give the teacher's file")
        return _tensors(state, "student."), "lightning"
    if any(key.startswith("architecture.") for key in state):
        return _tensors(state, "architecture." if part == "student" else "teacher."), "mmrazor"
    return state, "mmdet" if isinstance(nested, Mapping) and "meta" in content else "state_dict"


def read_detector_state(path: str | Path, *, part: str = "student") -> DetectorState:
    """Read a detector's weights from any of the known files.

    Args:
        path: a torch file.
        part: ``"student"`` or ``"teacher"`` of an mmrazor file (which holds both).

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown part, a refused pickle, an empty state dict, a teacher asked of a Lightning file.
    """
    if part not in ("student", "teacher"):
        raise ValueError(f"unknown part {part!r}; choose student or teacher")
    path = Path(path)
    content = _read(path)
    state, origin = _select(content, part, path)
    if not state:
        raise ValueError(f"{path} ({origin}) holds no tensors for the {part}: its state dict is empty")
    meta = content.get("meta")
    return DetectorState(state, dict(meta) if isinstance(meta, Mapping) else {}, origin)


def load_strict(
    model: nn.Module,
    state: DetectorState | Mapping[str, Tensor],
    *,
    required: Sequence[str] = ("backbone", "neck"),
) -> LoadReport:
    """Load what fits, list what does not, and insist on the required parts.

    Args:
        model: changed in place.
        state: weights.
        required: prefixes of keys that must all be there in the right shape; ``""`` means every key. Batch-norm
            counters (``num_batches_tracked``), which old files lack, may be absent.

    Raises:
        ValueError: a required key is missing or has another shape; nothing is loaded then.
    """
    given = state.state_dict if isinstance(state, DetectorState) else state
    own = model.state_dict()
    missing = [key for key in own if key not in given]
    mismatched = [key for key in own if key in given and own[key].shape != given[key].shape]
    matched = [key for key in own if key in given and own[key].shape == given[key].shape]
    report = LoadReport(matched, missing, [key for key in given if key not in own], mismatched)
    bad = [
        k for k in (*missing, *mismatched) if k.startswith(tuple(required)) and not k.endswith("num_batches_tracked")
    ]
    if bad:
        detail = ", ".join(_describe(key, own, given) for key in bad[:3])
        raise ValueError(
            f"the checkpoint does not fit the model: {len(bad)} required keys are missing or of another shape "
            f"({detail}{' ...' if len(bad) > 3 else ''}); {report}; check that configuration and file belong together"
        )
    model.load_state_dict({key: given[key] for key in matched}, strict=False)
    return report


def _describe(key: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    if key not in given:
        return f"{key} missing"
    return f"{key}: model {tuple(own[key].shape)}, file {tuple(given[key].shape)}"


def export_mmdet(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    *,
    classes: Sequence[str],
    config: str = "",
    epoch: int = 0,
    iteration: int = 0,
) -> None:
    """Write a plain mmdet checkpoint: tensors and plain types only, loadable with ``weights_only=True``.

    Args:
        path: file to write.
        state_dict: the student's weights under mmdet's key names.
        classes: class names in label order.
        config: text of a runnable configuration.
        epoch: epochs trained.
        iteration: optimiser steps done.

    Raises:
        ValueError: an empty state dict.
    """
    if not state_dict:
        raise ValueError("the state dict to export is empty")
    tensors = OrderedDict((key, value.detach().cpu().clone()) for key, value in state_dict.items())
    meta: dict[str, Any] = {"dataset_meta": {"classes": tuple(str(c) for c in classes)}, "cfg": config}
    meta |= {"epoch": int(epoch), "iter": int(iteration)}
    torch.save({"meta": meta, "state_dict": tensors}, path)
