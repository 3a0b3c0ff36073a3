"""What validation and prediction of the world model compute, and noise that belongs to a clip."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from septet.lightning_modules.drivingdojo import drift, media
from septet.lightning_modules.drivingdojo.actions import known_yaw
from septet.lightning_modules.drivingdojo.diffusion import lognormal_sigma

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel

MOTION = ("forward", "right", "yaw")
COMMANDS = {"left": -0.1, "straight": 0.0, "right": 0.1, "stop": None}
"""Curvatures (1/m) driven at 0.8 m per step from one start frame."""


def clip_seeds(clip_ids: Sequence[str]) -> list[int]:
    """A seed per clip: its noise depends neither on the batch around it nor on the number of processes."""
    return [zlib.crc32(name.encode()) for name in clip_ids]


def clip_losses(model: WorldModel, batch: dict[str, Any], level: float | None = None) -> Tensor:
    """Loss of every clip ``(B,)`` at the clip's own noise; ``level`` fixes sigma."""
    frames, rows = batch["frames"], []
    for b, seed in enumerate(clip_seeds(batch["clip_id"])):
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(1, 1, generator=generator).expand(-1, frames.shape[1])
        sigma = lognormal_sigma(normal, model.preset.p_mean, model.preset.p_std)
        sigma = sigma if level is None else torch.full_like(sigma, level)
        noise = torch.randn(1, frames.shape[1], *model.latent_shape, generator=generator)
        one, on = slice(b, b + 1), frames.device
        given = {"sigma": sigma.to(on), "noise": noise.to(on), "yaw": batch["yaw"][one]}
        rows.append(model.loss(frames[one], batch["actions"][one], augment=False, **given))
    return torch.stack(rows)


def validation_step(model: WorldModel, batch: dict[str, Any], batch_idx: int) -> None:
    """Log val/loss, and val/psnr of the whole dream and of its first new frame."""
    frames = batch["frames"]
    seeds = clip_seeds(batch["clip_id"])
    video = model.generate(frames[:, : model.context], batch["actions"], yaw=batch["yaw"], seed=seeds)
    error = drift.squared_error(video, frames)[:, model.context :]
    values = {
        "loss": clip_losses(model, batch).mean(), "psnr": drift.decibel(error.mean()),
        "psnr_first": drift.decibel(error[:, 0].mean()),
    }  # fmt: skip
    model.log_dict({f"val/{k}": v for k, v in values.items()}, on_epoch=True, batch_size=len(frames), sync_dist=True)


def arc(curvature: float | None, steps: int, speed: float = 0.8) -> Tensor:
    """Constant steps (forward, right) on a circle; None stands still."""
    if curvature is None:
        return torch.zeros(steps, 2)
    half = speed * curvature / 2
    return torch.tensor([[speed * math.cos(half), speed * math.sin(half)]]).expand(steps, 2)


def predict_step(model: WorldModel, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Dream from the first frames; write an mp4 (a film strip without PyAV) and its motions; give one row per step."""
    first = batch["frames"][:, : model.context]
    video = model.generate(first, batch["actions"], yaw=batch["yaw"])
    turn = known_yaw(batch["actions"], batch["yaw"])
    rows, fps = [], batch.get("fps", [None] * len(first))
    for b, name in enumerate(batch["clip_id"]):
        file = save_video(model, f"prediction_{name}", video[b], fps[b])
        motions = torch.cat([batch["actions"][b], turn[b, :, None]], 1).tolist()
        steps = [{"clip": name, "step": n, **dict(zip(MOTION, m, strict=True))} for n, m in enumerate(motions)]
        table = [",".join(MOTION), *(",".join(f"{v:.9g}" for v in m) for m in motions)]
        model.save_media(f"prediction_{name}.csv", "\n".join(table) + "\n")
        rows += [row | {"file": file} for row in steps]
    return rows


def save_video(model: WorldModel, name: str, frames: Tensor, fps: float | None = None) -> str:
    """``media/<name>.mp4``, or ``.png`` without PyAV; the path relative to the run.

    Args:
        model: whose run it belongs to.
        name: of the file; one that lies there already is replaced, which is said.
        frames: ``(T, 3, H, W)`` uint8.
        fps: frames per second of the clip; None takes the model's.
    """
    trainer = model.trainer
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return ""
    path = model.run_dir / "media" / f"{name}.mp4"
    if path.is_file():
        rank_zero_info(f"media/{name}.mp4 of an earlier call is replaced")
    try:
        media.write_mp4(path, frames, fps or model.condition.fps)
    except ImportError:
        saved = model.save_picture(name, media.film_strip([frames]))
        return "" if saved is None else str(saved.relative_to(model.run_dir))
    for logger in model.loggers:
        if hasattr(logger, "log_video"):
            logger.log_video(key=f"media/{name}", videos=[str(path)], format=["mp4"])
    return str(path.relative_to(model.run_dir))
