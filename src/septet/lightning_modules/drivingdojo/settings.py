"""Sizes of the world model, how they are built, and what a run records of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from septet.lightning_modules.drivingdojo.codec import PixelCodec, TinyAutoencoderCodec
from septet.lightning_modules.drivingdojo.model import NextFrameUNet, SpatioTemporalDiT

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
    """Model and protocol of a run record; ``tools`` adds the extractors of a test with their hashes.

    The headline of a test with an estimator is E_x; the best checkpoint is still chosen by the validation loss.
    """
    params = 0 if model.net is None else sum(p.numel() for p in model.net.parameters())
    block = {"name": "drivingdojo", "variant": model.size, "params": params, "conditioning": model.conditioning}
    protocol: dict[str, Any] = {
        "steps": model.steps,
        "method": model.method,
        "guidance": list(model.guidance),
        "aif": model.aif,
    }
    protocol |= {"aif_protocol": model.aif_protocol, "context": model.context}
    fields: dict[str, Any] = {"model": block, "protocol": protocol}
    if tools is not None:
        protocol |= {"aif_options": model.aif_options, "bonnet": model.bonnet}
        if model.aif != "none":
            protocol["aif_not_scored"] = tools.reasons
            fields["monitor"] = {"metric": "test/aif_ex", "mode": "min"}
        protocol["extractors"] = [{"name": e.name, "kind": e.kind, "sha256": e.sha256} for e in tools.extractors]
    return fields
