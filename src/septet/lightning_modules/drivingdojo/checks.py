"""What is checked before long work: settings, tensors, data and cameras."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from septet.lightning_modules.drivingdojo.diffusion import METHODS
from septet.lightning_modules.drivingdojo.pool import EstimatorPool
from septet.lightning_modules.drivingdojo.scoring import PROTOCOLS
from septet.lightning_modules.drivingdojo.settings import SIZES
from septet.lightning_modules.drivingdojo.video_metrics import EXTRACTORS

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel


def check(given: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that can never work."""
    choices = {"size": SIZES, "method": METHODS, "aif_protocol": PROTOCOLS}
    for name, allowed in choices.items():
        if given[name] not in allowed:
            raise ValueError(f"unknown {name} {given[name]!r}: choose {', '.join(allowed)}")
    if given["conditioning"] not in (None, "adaln", "cross_tokens"):
        raise ValueError(f"unknown conditioning {given['conditioning']!r}: choose 'adaln' or 'cross_tokens'")
    if given["conditioning"] == "cross_tokens" and given["size"] == "tiny":
        raise ValueError("size 'tiny' has no attention for conditioning 'cross_tokens': use 'adaln'")
    if given["conditioning"] == "adaln" and given["size"] == "svd":
        raise ValueError("size 'svd' reads actions as 'cross_tokens'")
    if not 1 <= given["context"] < given["frames"]:
        raise ValueError(f"context={given['context']} must be at least 1 and below frames={given['frames']}")
    window = given["train_frames"]
    if window is not None and not given["context"] < window <= given["frames"]:
        raise ValueError(
            f"train_frames={window} must lie above context={given['context']} and not above frames={given['frames']}"
        )
    if given["size"] == "tiny" and any(n % 8 for n in given["frame_size"]):
        raise ValueError(f"frame_size={list(given['frame_size'])}: height and width of size 'tiny' must divide by 8")
    if given["steps"] < 1:
        raise ValueError(f"steps={given['steps']} is below 1")
    if given["lr"] <= 0 or not 0 <= given["ema"] < 1:
        raise ValueError(f"lr={given['lr']} must be above 0 and ema={given['ema']} in [0, 1)")
    if min(given["dropout"]) < 0 or sum(given["dropout"]) > 1:
        raise ValueError(f"dropout={given['dropout']} must be three shares that sum to at most 1")
    if given["lora_rank"] and given["size"] != "svd":
        raise ValueError("lora_rank is for size 'svd'")
    _check_test(given)


def _check_test(given: Mapping[str, Any]) -> None:
    """Settings that only the test reads."""
    if given["aif_workers"] < 0:
        raise ValueError(f"aif_workers={given['aif_workers']} is below 0")
    if unknown := sorted(set(given["extractors"]) - set(EXTRACTORS)):
        raise ValueError(f"unknown extractors {', '.join(unknown)}: choose {', '.join(EXTRACTORS)}")
    bonnet = given["bonnet"]
    if bonnet not in (None, "find") and not (isinstance(bonnet, int) and 0 < bonnet < given["frame_size"][0]):
        raise ValueError(f"bonnet={bonnet!r}: give 'find' or the first row to ignore, below {given['frame_size'][0]}")


def check_first(first: Tensor, frame_size: tuple[int, int]) -> None:
    """Raise ValueError unless frames are uint8 ``(B, K, 3, H, W)`` of the model's size."""
    if first.dtype != torch.uint8 or first.ndim != 5 or tuple(first.shape[2:]) != (3, *frame_size):
        want = f"uint8 (B, T, 3, {frame_size[0]}, {frame_size[1]})"
        raise ValueError(f"frames {first.dtype} of shape {tuple(first.shape)}: expected {want}; resize them first")


def check_actions(actions: Tensor, batch: int) -> None:
    """Raise ValueError unless actions are finite ``(B, n, 2)``."""
    if actions.ndim != 3 or actions.shape[2] != 2 or len(actions) != batch:
        raise ValueError(f"actions of shape {tuple(actions.shape)}: expected ({batch}, n, 2), metres")
    if not bool(actions.isfinite().all()):
        raise ValueError("actions hold values that are not finite")


def check_clip(frames: Tensor, actions: Tensor, frame_size: tuple[int, int]) -> None:
    """Raise ValueError unless a clip and its actions fit."""
    check_first(frames, frame_size)
    check_actions(actions, len(frames))
    if actions.shape[1] != frames.shape[1] - 1:
        raise ValueError(f"{actions.shape[1]} actions beside {frames.shape[1]} frames: expected {frames.shape[1] - 1}")


def check_prompt(first: Tensor, actions: Tensor, frame_size: tuple[int, int]) -> None:
    """Raise ValueError unless there is something to dream."""
    check_first(first, frame_size)
    check_actions(actions, len(first))
    if first.shape[1] < 1 or actions.shape[1] < first.shape[1]:
        raise ValueError(f"{actions.shape[1]} actions leave nothing to dream after {first.shape[1]} known frames")


def known_mask(known: Tensor | None, batch: int, count: int, context: int, device: torch.device) -> Tensor:
    """The given mask after a check, or the first ``context`` frames."""
    if known is None:
        known = (torch.arange(count, device=device) < context).expand(batch, count)
    if tuple(known.shape) != (batch, count):
        raise ValueError(f"known of shape {tuple(known.shape)}: expected ({batch}, {count})")
    if bool(known.all(1).any()):
        raise ValueError("a clip has no unknown frame: nothing to learn from it")
    return known


def check_data(model: WorldModel, data: Any, stage: str) -> None:
    """Raise ValueError where the data module gives other frames than the model reads."""
    size = getattr(data, "size", None)
    if size is not None and tuple(size) != model.frame_size:
        raise ValueError(
            f"data size {list(size)} beside model frame_size {list(model.frame_size)}: give both the same "
            "(--data.init_args.size, --model.init_args.frame_size)"
        )
    frames, window = getattr(data, "frames", None), model.train_frames
    if stage == "fit" and frames is not None and window is not None and window > frames:
        raise ValueError(f"train_frames={window} beside clips of {frames} frames: give at most as many")


def check_estimator(model: WorldModel, pool: EstimatorPool | None, data: Any) -> None:
    """Raise ValueError for a test clip whose camera the estimator cannot use; warn of metres that are none."""
    if pool is None or not hasattr(data, "part"):
        return
    source = getattr(data, "source", "simulator")
    if model.aif == "inverse_dynamics" and "checkpoint" not in model.aif_options and source != "simulator":
        warnings.warn(
            f"aif 'inverse_dynamics' was trained on the simulated street (32x64, 90 degrees): on {source!r} video its "
            "metres mean little; use pycolmap (from about 320x576), or a net of your own", UserWarning, stacklevel=2,
        )  # fmt: skip
    models, clips = getattr(pool.estimator, "cameras", ()), data.part("test")
    for clip, camera in clips.cameras().items() if models and hasattr(clips, "cameras") else ():
        if camera is None:
            given = f"write {clip}.json with model, params, width and height beside it"
            raise ValueError(f"clip {clip!r} has no camera, which aif {model.aif!r} needs: {given}")
        if camera.model not in models:
            usable = f"reads {' and '.join(models)}: use pycolmap"
            raise ValueError(f"clip {clip!r} has a camera {camera.model}, aif {model.aif!r} {usable}")
