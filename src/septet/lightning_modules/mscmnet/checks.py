"""Refusals of the modules: settings that can never work, checkpoints and weights of another network."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.kernels.ranking import check_rerank
from septet.lightning_modules.mscmnet.schedule import check_schedule

CHOICES = {
    "triplet": ("qct", "wrt", "batch_hard", "hetero_center", "none"),
    "interval": ("epoch", "step"),
    "trunk": ("resnet50", "micro"),
}
SHAPING = ("num_classes", "image_size", "trunk", "mimb", "residual", "head_dim", "inner")
"""Hyper-parameters that decide names and shapes of the network's tensors."""


def check_settings(arguments: Mapping[str, Any]) -> None:
    """Refuse constructor arguments that can never work.

    Args:
        arguments: of MSCMNet or AGW, by name.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    for name, allowed in CHOICES.items():
        if arguments[name] not in allowed:
            raise ValueError(f"unknown {name} {arguments[name]!r}: choose from {', '.join(allowed)}")
    if not 0 < arguments["lr"] < math.inf:
        raise ValueError(f"lr={arguments['lr']} is not above 0 (and finite)")
    if any(side % 16 or side < 16 for side in arguments["image_size"]):
        raise ValueError(f"image_size {tuple(arguments['image_size'])}: both sides must be multiples of 16")
    if arguments["num_classes"] < 2:
        raise ValueError(f"num_classes={arguments['num_classes']} is below 2: give the number of training identities")
    if not 0 <= arguments.get("alpha", 0.0) <= 1:
        raise ValueError(f"alpha={arguments['alpha']} is outside 0..1: 0 is the released loss")
    if not 0 <= arguments["label_smoothing"] < 1:
        raise ValueError(f"label_smoothing={arguments['label_smoothing']} is outside [0, 1): 0 turns it off")
    if arguments.get("head_dim", 1) < 1:
        raise ValueError(f"head_dim={arguments['head_dim']} is below 1: the default is 9")
    for name in ("margin", "weight_decay", "base_factor"):
        if not 0 <= arguments[name] < math.inf:
            raise ValueError(f"{name}={arguments[name]}: give a finite number of at least 0")
    check_schedule(arguments["schedule"] or {})
    if arguments["rerank"] is not None:
        check_rerank(arguments["rerank"])


def check_gallery_size(rerank: Mapping[str, Any], evaluation: Any) -> None:
    """Refuse a ``k1`` or ``k2`` that the test's images cannot fill, before features are extracted.

    Raises:
        ValueError: naming the images there are.
    """
    count = len(evaluation.query) + min(map(len, evaluation.galleries[evaluation.primary]))
    for name, default, most in (("k1", 20, count - 1), ("k2", 6, count)):
        value = rerank.get(name, default)
        if value > most:
            raise ValueError(f"rerank.{name}={value}: queries and gallery are {count} images, set it to at most {most}")


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Any], ours: Any, theirs: Any) -> None:
    """Refuse a checkpoint of another network in one line.

    Args:
        own: state of the module.
        state: of the checkpoint.
        ours: hyper-parameters of the module.
        theirs: of the checkpoint.

    Raises:
        ValueError: naming the hyper-parameters that differ, or else the first tensors.
    """
    strange = [k for k in own if k not in state] + [k for k in state if k not in own]
    strange += [k for k in own if k in state and tuple(own[k].shape) != tuple(getattr(state[k], "shape", ()))]
    if not strange:
        return
    differ = []
    for name in SHAPING:
        mine, kept = (_plain(side.get(name, "absent")) for side in (ours, theirs))
        if mine != kept:
            differ.append(f"{name} is {kept} there and {mine} here")
    reason = ", ".join(differ) if differ else f"{len(strange)} tensors differ, such as {', '.join(strange[:3])}"
    raise ValueError(
        f"the checkpoint is of another network: {reason}; give the checkpoint's own settings (--run takes them) or "
        "another checkpoint"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_weights(path: str | Path) -> dict[str, Any]:
    """A local file of torchvision's weights.

    Raises:
        ValueError: no such file, or not a state dict that torch can read.
    """
    remedy = "set weights to a local file of torchvision's ResNet-50 state dict, or to null"
    if not Path(path).is_file():
        raise ValueError(f"weights {path} does not exist: {remedy}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"weights {path} cannot be read by torch ({type(error).__name__}): {remedy}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights {path} holds {type(state).__name__}, no state dict: {remedy}")
    return state
