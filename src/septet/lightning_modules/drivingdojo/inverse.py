"""Learned inverse dynamics: which motion lies between two small frames."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.lightning_modules.drivingdojo.actions import known_yaw, step_features
from septet.lightning_modules.drivingdojo.poses import Trajectory
from septet.lightning_modules.drivingdojo.schedule import one_cycle
from septet.lightning_modules.task import Task

SIZE = (32, 64)
BUNDLED = "weights/inverse_dynamics.pt"


class InverseDynamicsNet(nn.Module):
    """A pair of 32x64 frames to (forward, 10 right, 10 yaw); 0.4 M parameters.

    Args:
        width: of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        plan = [(11, w, 1), (w, w * 3 // 2, 2), (w * 3 // 2, w * 2, 2), (w * 2, w * 2, 1), (w * 2, w * 3, 2)]
        layers: list[nn.Module] = []
        for n_in, n_out, stride in plan:
            layers += [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.GroupNorm(8, n_out), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv2d(w * 3, 32, 1), nn.SiLU(), nn.Flatten(), nn.Linear(32 * 32, 128), nn.SiLU(), nn.Linear(128, 3)
        )

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Motions ``(N, 3)`` between frames ``(N, 3, 32, 64)`` in [-1, 1]."""
        y, x = (torch.linspace(-1, 1, n, device=before.device, dtype=before.dtype) for n in SIZE)
        grid = torch.stack([y[:, None].expand(SIZE), x.expand(SIZE)]).expand(len(before), -1, -1, -1)
        out: Tensor = self.head(self.trunk(torch.cat([before, after, after - before, grid], 1)))
        return out


class InverseDynamics(Task):
    """Trains :class:`InverseDynamicsNet` on real motions, smooth L1 on (forward, 10 right, 10 yaw).

    Args:
        width: of the net.
        lr: peak of the one-cycle schedule of AdamW.
        noise: largest standard deviation of noise added to the frames, which makes it bear dreamed ones.
        blur: largest standard deviation in pixels of a blur that every frame draws for itself: dreamed frames are less
            sharp than real ones, and an estimator that never saw a blurred pair reads blur as motion.

    Raises:
        ValueError: ``lr`` not above 0, ``noise`` or ``blur`` below 0.
    """

    monitor: ClassVar[str] = "val/ex"
    mode: ClassVar[str] = "min"

    def __init__(self, width: int = 32, lr: float = 2e-3, noise: float = 0.05, blur: float = 0.0) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"lr={lr} is not above 0")
        if min(noise, blur) < 0:
            raise ValueError(f"noise={noise} and blur={blur} must not be negative")
        self.save_hyperparameters({"width": width, "lr": lr, "noise": noise, "blur": blur})
        self.width, self.lr, self.noise, self.blur = width, lr, noise, blur
        self.net: InverseDynamicsNet | None = None

    def configure_model(self) -> None:
        """Build the net once."""
        if self.net is None:
            self.net = InverseDynamicsNet(self.width)

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle."""
        return one_cycle(self.parameters(), self.lr, self.trainer, betas=(0.9, 0.999), warmup=0.15)

    def predict_pairs(self, frames: Tensor) -> Tensor:
        """Motions ``(B, T-1, 3)`` of clips ``(B, T, 3, H, W)`` in [-1, 1]."""
        assert self.net is not None
        pairs = self.net(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
        result: Tensor = pairs.view(len(frames), -1, 3)
        return result

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Smooth L1 over all pairs of the batch."""
        frames = small_frames(batch["frames"])
        if self.blur > 0:
            sigma = torch.rand(frames.shape[:2], device=frames.device) * self.blur
            frames = blurred(frames.flatten(0, 1), sigma.flatten()).view_as(frames)
        level = torch.rand(len(frames), 1, 1, 1, 1, device=frames.device) * self.noise
        frames = frames + level * torch.randn_like(frames)
        wanted = step_features(batch["actions"], known_yaw(batch["actions"], batch["yaw"]))
        loss = F.smooth_l1_loss(self.predict_pairs(frames), wanted, beta=0.1)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Errors in metres and degrees."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Errors in metres and degrees."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        wanted = step_features(batch["actions"], known_yaw(batch["actions"], batch["yaw"]))
        error = (self.predict_pairs(small_frames(batch["frames"])) - wanted).abs().mean((0, 1))
        values = {"ex": error[0], "ey": error[1] / 10, "yaw_deg": (error[2] / 10).rad2deg()}
        self.log_dict({f"{stage}/{k}": v for k, v in values.items()}, on_epoch=True, batch_size=len(wanted))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """One row per step: estimated forward, right (m) and yaw (rad)."""
        scale = torch.tensor([1.0, 0.1, 0.1], device=self.device)
        motion = (self.predict_pairs(small_frames(batch["frames"])) * scale).cpu().tolist()
        return [
            {"clip": name, "step": n, "forward": row[0], "right": row[1], "yaw": row[2]}
            for name, rows in zip(batch["clip_id"], motion, strict=True)
            for n, row in enumerate(rows)
        ]

    def on_test_end(self) -> None:
        """Write the estimator as a small file of half-precision weights into the run directory."""
        if self.trainer.is_global_zero:
            self.export(self.run_dir / "inverse_dynamics.pt")

    def export(self, path: Path) -> None:
        """Half-precision weights and the width: what :class:`InverseDynamicsEstimator` reads."""
        assert self.net is not None
        state = {k: v.half().cpu() for k, v in self.net.state_dict().items()}
        with path.open("wb") as handle:  # a path would be kept inside the file
            torch.save({"width": self.width, "state_dict": state}, handle)

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol of the run record."""
        params = sum(p.numel() for p in self.parameters())
        return {"model": {"name": "inverse_dynamics", "params": params}, "protocol": {"errors": "metres per step"}}


class InverseDynamicsEstimator:
    """Metric camera paths of small frames by a trained :class:`InverseDynamicsNet`.

    It shares the biases of the video it was trained on (the simulator at 90 degrees): keep the floor and the controls
    beside its numbers.

    Args:
        checkpoint: exported file or a checkpoint of :class:`InverseDynamics`; None takes the shipped one.

    Raises:
        ValueError: if the file holds something else; FileNotFoundError if it is absent.
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        path = (
            Path(str(files("septet.lightning_modules.drivingdojo") / BUNDLED))
            if checkpoint is None
            else Path(checkpoint)
        )
        if not path.is_file():
            raise FileNotFoundError(f"no estimator {path}: fit configs/drivingdojo/sim_inverse_dynamics.yaml first")
        stored = torch.load(path, weights_only=True, map_location="cpu")
        state = stored.get("state_dict") if isinstance(stored, dict) else None
        if not state or not any(k.removeprefix("net.").startswith("trunk.") for k in state):
            raise ValueError(f"{path} is not an inverse-dynamics estimator")
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        width = stored.get("width") or stored["hyper_parameters"]["width"]
        self.net = InverseDynamicsNet(width).float().eval()
        self.net.load_state_dict({k.removeprefix("net."): v.float() for k, v in state.items()})

    @torch.no_grad()
    def estimate(self, frames: Tensor, camera: Any = None, mask: Tensor | None = None) -> Trajectory:
        """Level path of ``(T, 3, H, W)`` uint8 frames, in metres; every frame counts as registered."""
        small = small_frames(frames.cpu())
        motion = self.net(small[:-1], small[1:]).double() * torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64)
        return Trajectory.from_actions(motion[:, :2], motion[:, 2], median_flow_px=normal_flow(small))


def small_frames(frames: Tensor) -> Tensor:
    """uint8 ``(.., 3, H, W)`` to [-1, 1] at 32x64, by area where the size differs."""
    scaled = frames.float() / 127.5 - 1
    if tuple(frames.shape[-2:]) == SIZE:
        return scaled
    small = F.interpolate(scaled.flatten(0, -4), SIZE, mode="area")
    result: Tensor = small.unflatten(0, frames.shape[:-3])
    return result


def blurred(frames: Tensor, sigma: Tensor) -> Tensor:
    """Frames ``(N, C, H, W)`` under a Gaussian of ``sigma`` ``(N,)`` pixels each (9 taps, edges repeated)."""
    taps = torch.arange(-4, 5, device=frames.device, dtype=frames.dtype)
    kernel = (-0.5 * (taps / sigma.clamp_min(1e-2).unsqueeze(1)).square()).softmax(1)
    count, channels = frames.shape[:2]
    kernel = kernel.repeat_interleave(channels, 0)[:, None, None]
    flat = F.pad(frames, (4, 4, 4, 4), mode="replicate").flatten(0, 1).unsqueeze(0)
    flat = F.conv2d(flat, kernel, groups=count * channels)
    flat = F.conv2d(flat, kernel.transpose(2, 3), groups=count * channels)
    result: Tensor = flat[0].unflatten(0, (count, channels))
    return result


def normal_flow(frames: Tensor) -> float:
    """Median over steps and edges of |dI/dt| / |grad I| of frames ``(T, 3, H, W)``, in pixels of a picture 576 wide.

    The rule for stop commands (under 0.5 pixels) is meant for 576x320.
    """
    grey = frames.mean(1)
    dy, dx = grey[:-1, 1:, :-1] - grey[:-1, :-1, :-1], grey[:-1, :-1, 1:] - grey[:-1, :-1, :-1]
    slope = (dx.square() + dy.square()).sqrt()
    change = (grey[1:] - grey[:-1]).abs()[:, :-1, :-1]
    edges = slope > slope.flatten(1).quantile(0.7, 1)[:, None, None].clamp_min(1e-3)
    ratio = (change / slope.clamp_min(1e-6))[edges]
    return float(ratio.median()) * 576 / frames.shape[-1] if ratio.numel() else 0.0
