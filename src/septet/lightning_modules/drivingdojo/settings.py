"""Sizes of the world model, how they are built, and what is checked before long work."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from septet.lightning_modules.drivingdojo.actions import known_yaw
from septet.lightning_modules.drivingdojo.codec import PixelCodec, TinyAutoencoderCodec
from septet.lightning_modules.drivingdojo.diffusion import METHODS
from septet.lightning_modules.drivingdojo.model import NextFrameUNet, SpatioTemporalDiT
from septet.lightning_modules.drivingdojo.scoring import PROTOCOLS
from septet.lightning_modules.drivingdojo.video_metrics import EXTRACTORS

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel


class SizeSettings(NamedTuple):
    """Noise of a size: data scale, form of F, training and sampling levels."""

    sigma_data: float
    form: Literal["edm", "v"]
    p_mean: float
    p_std: float
    sigma_min: float
    sigma_max: float


class Conditioning(NamedTuple):
    """What SVD's time ids say; one object for training and sampling, so that they cannot differ.

    Attributes:
        fps: frames per second, given to the net as it is (the released pipeline subtracts 1 in sampling only).
        motion_bucket: SVD's amount of motion.
        noise_aug: noise on the conditioning image.
    """

    fps: int
    motion_bucket: int
    noise_aug: float


SIZES = {
    "tiny": SizeSettings(0.5, "edm", -0.4, 1.2, 0.02, 5.0),
    "small": SizeSettings(0.5, "edm", -0.4, 1.2, 0.02, 20.0),
    "svd": SizeSettings(1.0, "v", 0.7, 1.6, 0.002, 700.0),
}
FORM = {"tiny": "adaln", "small": "adaln", "svd": "cross_tokens"}


def plain(values: Mapping[str, Any], owner: type) -> dict[str, Any]:
    """Constructor arguments as plain types."""
    names = [n for n in inspect.signature(owner.__init__).parameters if n != "self"]  # type: ignore[misc]
    return {n: list(values[n]) if isinstance(values[n], tuple) else values[n] for n in names}


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
    if given["train_frames"] is not None and given["train_frames"] <= given["context"]:
        raise ValueError(f"train_frames={given['train_frames']} leaves no frame after context={given['context']}")
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


def build(model: WorldModel) -> tuple[nn.Module, nn.Module]:
    """Codec and net of a size."""
    args = model.net_args
    if model.size == "tiny":
        codec = PixelCodec(2, model.frame_size)
        return codec, NextFrameUNet(codec.shape[0], **args)
    if model.size == "small":
        small: Any = PixelCodec(4, model.frame_size)
        if model.weights_path is not None:
            small = TinyAutoencoderCodec(model.weights_path, model.frame_size)
        net = SpatioTemporalDiT(small.shape[0], small.shape[1:], model.frames, form=model.conditioning, **args)  # type: ignore[arg-type]
        net.checkpointing = model.gradient_checkpointing
        return small, net
    from septet.lightning_modules.drivingdojo.svd import build_svd

    return build_svd(model)


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


def asked(actions: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """A stream of (forward, right) as tensors ``(1, 2)`` with their chord-rule yaw ``(1,)``."""
    for action in actions:
        step = torch.as_tensor(action, dtype=torch.float32, device=device).view(1, 2)
        yield step, known_yaw(step, None)


def known_mask(known: Tensor | None, batch: int, count: int, context: int, device: torch.device) -> Tensor:
    """The given mask after a check, or the first ``context`` frames."""
    if known is None:
        known = (torch.arange(count, device=device) < context).expand(batch, count)
    if tuple(known.shape) != (batch, count):
        raise ValueError(f"known of shape {tuple(known.shape)}: expected ({batch}, {count})")
    if bool(known.all(1).any()):
        raise ValueError("a clip has no unknown frame: nothing to learn from it")
    return known


def random_windows(frames: Tensor, actions: Tensor, yaw: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random window of ``count`` frames of every clip, with its motions."""
    starts = torch.randint(frames.shape[1] - count + 1, (len(frames),)).tolist()
    rows = list(enumerate(starts))
    return (
        torch.stack([frames[b, s : s + count] for b, s in rows]),
        torch.stack([actions[b, s : s + count - 1] for b, s in rows]),
        torch.stack([yaw[b, s : s + count - 1] for b, s in rows]),
    )


def record(model: WorldModel, tools: Any = None) -> dict[str, Any]:
    """Model and protocol of a run record; ``tools`` adds the extractors of a test with their hashes."""
    params = 0 if model.net is None else sum(p.numel() for p in model.net.parameters())
    block = {"name": "drivingdojo", "variant": model.size, "params": params, "conditioning": model.conditioning}
    protocol: dict[str, Any] = {
        "steps": model.steps,
        "method": model.method,
        "guidance": list(model.guidance),
        "aif": model.aif,
    }
    protocol |= {"aif_protocol": model.aif_protocol, "context": model.context}
    if tools is not None:
        protocol |= {"aif_options": model.aif_options, "bonnet": model.bonnet}
        protocol["extractors"] = [{"name": e.name, "kind": e.kind, "sha256": e.sha256} for e in tools.extractors]
    return {"model": block, "protocol": protocol}
