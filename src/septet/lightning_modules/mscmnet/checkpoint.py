"""Checkpoints in the format of the published code: names mapped, dead tensors dropped, safe loading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STEMS = {
    "visible_module.visible": "visible",
    "visible_moduleA.visible": "visible_aug",
    "thermal_module.thermal": "infrared",
    "thermal_moduleA.thermal": "infrared_aug",
}
_STEM = re.compile(rf"({'|'.join(re.escape(s) for s in _STEMS)})\.(.+)")
_NONLOCAL = re.compile(r"NL_([23])\.(\d)\.(theta|phi|g\.0|W\.0|W\.1)\.(.+)")
_STAGE = re.compile(r"layerATT([0-3])\.(.+)")
_INSIDE = {"g.0": "g", "W.0": "out", "W.1": "bn", "theta": "theta", "phi": "phi"}
_RENAMED = {"ATT_narrow": "narrow", "ATT_broad": "broad", "ln_1o": "ln_source"}
_DEAD = re.compile(
    r"base_resnet\.base\.(conv1|bn1|fc)\..+|local_conv\..+|feat_bn2d\..+"
    r"|(visible|thermal)_moduleA?\.(visible|thermal)\.(layer[1-4]|fc)\..+"
    r"|layerATT[01]\.ATT_narrow2\..+|layerATT2\.ATT_narrow1\..+|layerATT3\.(ATT_narrow[12]|ln_1o)\..+"
)


def from_official(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the published MSCMNet or AGW state mapped to ours, key by key; dead tensors are dropped.

    Args:
        state: a state dict, whole or in part; a leading ``module.`` is ignored.

    Returns:
        What :class:`QuadStreamNet` or :class:`AGWNet` loads strictly (if ``state`` was whole).

    Raises:
        ValueError: a key that belongs to neither network.
    """
    mapped: dict[str, Any] = {}
    for key, value in state.items():
        plain = key.removeprefix("module.")
        if _DEAD.fullmatch(plain):
            continue
        name = _map(plain)
        if name is None:
            raise ValueError(f"key {key!r} belongs to neither MSCMNet nor AGW: is this another network's checkpoint?")
        mapped[name] = value
    return mapped


def _map(key: str) -> str | None:
    """Our name of one live key."""
    if found := _STEM.fullmatch(key):
        part, _, rest = found[2].partition(".")
        place = {"conv1": "0", "bn1": "1"}.get(part)
        return f"stems.{_STEMS[found[1]]}.{place}.{rest}" if place else None
    if found := _NONLOCAL.fullmatch(key):
        return f"trunk.nonlocal{found[1]}.{found[2]}.{_INSIDE[found[3]]}.{found[4]}"
    if found := _STAGE.fullmatch(key):
        return f"mimb.{found[1]}.{_stage_name(found[2])}"
    if key.startswith("base_resnet.base.layer"):
        return "trunk." + key.removeprefix("base_resnet.base.")
    for old, new in (("bottleneck.", "neck."), ("classifier.", "classifier.")):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None


def _stage_name(name: str) -> str:
    """Our name of a tensor inside a MIMB stage."""
    first, _, rest = name.partition(".")
    if first in ("ATT_narrow1", "ATT_narrow2"):
        return f"down.{rest}"
    return f"{_RENAMED.get(first, first)}.{rest}"


def load_official_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a published checkpoint without running code from it, and map it.

    The files keep numpy numbers beside the tensors, which ``weights_only`` refuses; those types alone are allowed.

    Args:
        path: file with ``{"net": state, "cmc": ..., "mAP": ...}`` or a bare state dict.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: give the .t file written by the published training script")
    with torch.serialization.safe_globals(_numpy_types()):
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("net", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds {type(state).__name__}, not a state dict")
    return from_official(state)


def _numpy_types() -> list[Any]:
    """What numpy arrays and scalars need, under the module names of old and new numpy."""
    import numpy._core.multiarray as core

    dtypes = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")]
    allowed: list[Any] = [np.dtype, np.ndarray, *dtypes]
    for name in ("_reconstruct", "scalar"):
        function = getattr(core, name)
        allowed += [(function, f"numpy.core.multiarray.{name}"), (function, f"numpy._core.multiarray.{name}")]
    return allowed
