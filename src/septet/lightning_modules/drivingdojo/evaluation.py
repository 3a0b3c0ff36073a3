"""What validation, test and prediction of the world model compute."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from septet.lightning_modules.drivingdojo import drift, media
from septet.lightning_modules.drivingdojo.actions import known_yaw
from septet.lightning_modules.drivingdojo.diffusion import lognormal_sigma
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.video_metrics import VideoFrechetDistance, random_conv3d

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel

COMMANDS = {"left": -0.1, "straight": 0.0, "right": 0.1, "stop": None}
"""Curvatures (1/m) driven at 0.8 m per step from one start frame."""


def fixed_loss(model: WorldModel, batch: dict[str, Any], seed: int, level: float | None = None) -> Tensor:
    """Loss at noise that depends on ``seed`` only; ``level`` fixes sigma."""
    frames = batch["frames"]
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(len(frames), 1, generator=generator).expand(-1, frames.shape[1])
    sigma = lognormal_sigma(normal, model.preset.p_mean, model.preset.p_std)
    sigma = sigma if level is None else torch.full_like(sigma, level)
    noise = torch.randn(*frames.shape[:2], *model.latent_shape, generator=generator)
    on = frames.device
    return model.loss(frames, batch["actions"], sigma=sigma.to(on), noise=noise.to(on), augment=False, yaw=batch["yaw"])


def validation_step(model: WorldModel, batch: dict[str, Any], batch_idx: int) -> None:
    """Log val/loss, and val/psnr of the whole dream and of its first new frame."""
    frames = batch["frames"]
    video = model.generate(frames[:, : model.context], batch["actions"], yaw=batch["yaw"])
    error = drift.squared_error(video, frames)[:, model.context :]
    values = {
        "loss": fixed_loss(model, batch, batch_idx), "psnr": drift.decibel(error.mean()),
        "psnr_first": drift.decibel(error[:, 0].mean()),
    }  # fmt: skip
    model.log_dict({f"val/{k}": v for k, v in values.items()}, on_epoch=True, batch_size=len(frames), sync_dist=True)


class TestState:
    """Metrics and material for pictures, gathered over the batches of a test.

    Args:
        model: the model under test.
    """

    __test__ = False

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self.kept: tuple[dict[str, Any], Tensor] | None = None
        self.error: list[Tensor] = []
        self.colour: list[Tensor] = []
        self.copy: list[Tensor] = []
        self.ssim: list[float] = []
        self.losses: list[float] = []
        self.seams: list[float] = []
        self.frechet = VideoFrechetDistance(random_conv3d()).to(model.device)
        self.aif: dict[str, ActionInstructionFollowing] = {}
        if model.aif != "none":
            from septet.lightning_modules.drivingdojo.estimators import build_estimator

            self.estimator, metric_scale = build_estimator(model.aif)
            names = ("model", "floor", "static", "shuffled", "shuffled_own")
            self.aif = {n: ActionInstructionFollowing(self.estimator, model.aif_protocol, metric_scale) for n in names}

    def step(self, batch: dict[str, Any]) -> None:
        """Dream a batch and add it to every metric."""
        model, frames, actions = self.model, batch["frames"], batch["actions"]
        first = frames[:, : model.context]
        seed = 10_000 * (1 + len(self.losses))
        video = model.generate(first, actions, yaw=batch["yaw"], seed=seed)
        self.losses.append(float(fixed_loss(model, batch, len(self.losses))))
        self.error.append(drift.squared_error(video, frames)[:, model.context :].cpu())
        self.copy.append(drift.squared_error(frames[:, :1].expand_as(frames), frames)[:, model.context :].cpu())
        self.colour.append(
            (drift.colour_drift(video, frames[:, 0]) - drift.colour_drift(frames, frames[:, 0])).abs().cpu()
        )
        self.ssim.append(_ssim(video[:, model.context :], frames[:, model.context :]))
        reach = int(getattr(model.net, "reach", 1))
        self.seams.append(
            drift.seam_jump(video, drift.chunk_seams(model.context, model.frames, frames.shape[1], reach))
        )
        self.frechet.update(frames, real=True)
        self.frechet.update(video, real=False)
        if self.kept is None:
            self.kept = ({k: v[:8] for k, v in batch.items()}, video[:8])
        if self.aif:
            self._follow(batch, video, first, seed)

    def _follow(self, batch: dict[str, Any], video: Tensor, first: Tensor, seed: int) -> None:
        """Action following of the dream, the real video and the controls."""
        frames, actions = batch["frames"], batch["actions"]
        wrong_actions, wrong_yaw = actions.roll(1, 0), batch["yaw"].roll(1, 0)
        wrong = self.model.generate(first, wrong_actions, yaw=wrong_yaw, seed=seed)
        cases = {
            "model": (video, actions), "floor": (frames, actions),
            "static": (frames[:, :1].expand_as(frames), actions), "shuffled": (wrong, actions),
            "shuffled_own": (wrong, wrong_actions),
        }  # fmt: skip
        for name, (clips, command) in cases.items():
            self.aif[name].update(clips, command, camera=batch["camera"], clip_ids=batch["clip_id"])

    def finish(self) -> None:
        """Log everything once and draw the pictures."""
        quality = drift.decibel(torch.cat(self.error).mean(0))
        copy = drift.decibel(torch.cat(self.copy).mean(0))
        colour = torch.cat(self.colour)
        values = {
            "loss": sum(self.losses) / len(self.losses), "psnr": float(drift.decibel(torch.cat(self.error).mean())),
            "psnr_first": float(quality[0]), "psnr_copy_first": float(copy[0]),
            "psnr_last": float(quality[-1]), "colour_drift": float(colour[:, -1].mean()),
            "ssim": sum(self.ssim) / len(self.ssim), self.frechet.key: float(self.frechet.compute()),
            "seam_jump": self.seams[0],
        }  # fmt: skip
        controls = {n: {k: float(v) for k, v in m.compute().items()} for n, m in self.aif.items()}
        for name, row in controls.items():
            keys = row if name == "model" else ("ex", "ey", "coverage_clips")
            values |= {f"aif_{k}" if name == "model" else f"{name}_{k}": row[k] for k in keys}
        self.model.log_dict({f"test/{k}": v for k, v in values.items() if not math.isnan(v)}, on_epoch=True)
        self._draw(quality, colour, copy, controls)

    def _draw(self, quality: Tensor, colour: Tensor, copy: Tensor, controls: dict[str, dict[str, float]]) -> None:
        model = self.model
        assert self.kept is not None
        batch, video = self.kept
        rows = [c for pair in zip(batch["frames"][:3], video[:3], strict=True) for c in pair]
        model.save_picture("film_strip_real_generated", media.film_strip(rows))
        curves = {"model": quality.tolist(), "first frame repeated": copy.tolist()}
        model.save_picture("psnr_by_step", media.curves_figure(curves, "new frame", "PSNR (dB)"))
        drifts = {"colour drift against real": colour.mean(0).tolist()}
        model.save_picture("colour_drift", media.curves_figure(drifts, "frame", "grey levels"))
        levels = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0]
        by_sigma = [float(fixed_loss(model, batch, 0, level)) for level in levels]
        model.save_picture("loss_by_sigma", media.curves_figure({"loss": by_sigma}, "sigma", "weighted loss", levels))
        self._draw_commands(batch["frames"][0, : model.context])
        if controls:
            model.save_picture("aif_controls", media.controls_figure(controls))
            model.save_picture("aif_paths", media.path_figure(self.aif["model"].details[:8]))
            model.save_media("aif_clips.json", json.dumps(self.aif["model"].per_clip(), indent=1))
        _save_video(model, "dream", torch.cat([batch["frames"][0], video[0]], -1))

    def _draw_commands(self, first: Tensor) -> None:
        """Left, straight, right and stop from one start."""
        model = self.model
        count = 8
        actions = torch.stack([_arc(c, count) for c in COMMANDS.values()]).to(first.device)
        start = first.expand(len(COMMANDS), *first.shape)
        video = model.generate(start, actions, seed=[0] * len(COMMANDS))
        model.save_picture("commands_left_straight_right_stop", media.film_strip(list(video)))


def _arc(curvature: float | None, steps: int, speed: float = 0.8) -> Tensor:
    """Constant steps (forward, right) on a circle; None stands still."""
    if curvature is None:
        return torch.zeros(steps, 2)
    half = speed * curvature / 2
    return torch.tensor([[speed * math.cos(half), speed * math.sin(half)]]).expand(steps, 2)


def predict_step(model: WorldModel, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Dream from the first frames; write an mp4 (a film strip without PyAV) and give one row per step."""
    first = batch["frames"][:, : model.context]
    video = model.generate(first, batch["actions"], yaw=batch["yaw"])
    turn = known_yaw(batch["actions"], batch["yaw"])
    rows = []
    for b, name in enumerate(batch["clip_id"]):
        file = _save_video(model, f"prediction_{name}", video[b])
        for n, action in enumerate(batch["actions"][b].tolist()):
            row = {"clip": name, "step": n, "forward": action[0], "right": action[1], "yaw": float(turn[b, n])}
            rows.append(row | {"file": file})
    return rows


def _save_video(model: WorldModel, name: str, frames: Tensor) -> str:
    """``media/<name>.mp4`` at the model's frame rate, or ``.png`` without PyAV; the path relative to the run."""
    trainer = model.trainer
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return ""
    try:
        path = media.write_mp4(model.run_dir / "media" / f"{name}.mp4", frames, model.condition.fps)
    except ImportError:
        saved = model.save_picture(name, media.film_strip([frames]))
        return "" if saved is None else str(saved.relative_to(model.run_dir))
    for logger in model.loggers:
        if hasattr(logger, "log_video"):
            logger.log_video(key=f"media/{name}", videos=[str(path)], format=["mp4"])
    return str(path.relative_to(model.run_dir))


def _ssim(a: Tensor, b: Tensor) -> float:
    """Mean SSIM of uint8 clips."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(a.flatten(0, 1).float(), b.flatten(0, 1).float(), data_range=255.0)
    assert isinstance(value, Tensor)
    return float(value)
