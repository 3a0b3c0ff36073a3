"""A street with exact ego motion: ray-cast ground, walls and movers, deterministic by seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.video.clips import Camera, CameraModel, ClipSample, check_actions
from septet.kernels.egomotion import implied_yaw, integrate_actions

ROAD = 3.6
WALL = 7.0
WALL_HEIGHT = 6.0
FOG = 45.0
LIMIT = 5.5
SPEED, CURVATURE, ACCELERATION = 1.4, 0.11, 0.1
"""Ranges of training motion: metres per step, 1/m, metres per step and step."""


class Scene(NamedTuple):
    """What a seed decides besides the motion."""

    salt: int
    tint: np.ndarray
    movers: np.ndarray


class StreetSimulator:
    """Straight street of tiles, lines, walls with windows and fog.

    Args:
        height: of the frames.
        width: of the frames.
        fov_deg: horizontal field of view.
        camera_height: metres over the ground; the camera is level.
        supersample: rays per pixel and axis.
        movers: boxes that drive along the street.
        detail: strength of fine ground noise, which structure from motion needs.
        fps: frames per second.
        camera_model: ``PINHOLE``, or ``OPENCV_FISHEYE`` (equidistant).

    Raises:
        ValueError: for a size, field of view or count out of range.
    """

    def __init__(
        self,
        height: int = 32,
        width: int = 64,
        fov_deg: float = 90.0,
        camera_height: float = 1.5,
        supersample: int = 2,
        movers: int = 0,
        detail: float = 0.25,
        fps: float = 5.0,
        camera_model: CameraModel = "PINHOLE",
    ) -> None:
        if height < 2 or width < 2 or supersample < 1 or movers < 0:
            raise ValueError(f"height={height}, width={width}, supersample={supersample}, movers={movers}: too small")
        if not 10 <= fov_deg <= (160 if camera_model == "PINHOLE" else 180):
            raise ValueError(f"fov_deg={fov_deg} is out of range")
        if camera_height <= 0 or fps <= 0:
            raise ValueError(f"camera_height={camera_height} and fps={fps} must be above 0")
        self.height, self.width, self.fov_deg, self.camera_height = height, width, fov_deg, camera_height
        self.supersample, self.movers, self.detail, self.fps = supersample, movers, detail, fps
        self.camera_model = camera_model
        self._rays = self._ray_grid()

    @property
    def camera(self) -> Camera:
        """Intrinsics of the rendered frames."""
        half = math.radians(self.fov_deg) / 2
        focal = self.width / 2 / (math.tan(half) if self.camera_model == "PINHOLE" else half)
        rest = () if self.camera_model == "PINHOLE" else (0.0, 0.0, 0.0, 0.0)
        params = (focal, focal, self.width / 2, self.height / 2, *rest)
        return Camera(self.camera_model, params, self.width, self.height)

    def clip(self, seed: int, frames: int = 8, actions: Tensor | None = None, yaw: Tensor | None = None) -> ClipSample:
        """Render a clip.

        Args:
            seed: of the scene, the start and, without ``actions``, of the motion.
            frames: number of frames; with ``actions`` their number plus one.
            actions: (forward, right) of every step ``(T-1, 2)`` metres.
            yaw: turn of every step; default the chord rule.

        Raises:
            ValueError: ``frames`` below 1, actions not (n, 2) or not finite.
        """
        if frames < 1:
            raise ValueError(f"frames={frames} is below 1")
        rng = np.random.default_rng((0x5EED, seed))
        scene = self._scene(rng)
        lateral, heading = rng.uniform(-1.5, 1.5), rng.uniform(-0.15, 0.15)
        if actions is None:
            actions = torch.from_numpy(_random_drive(rng, frames - 1, lateral, heading))
        actions = check_actions(torch.as_tensor(actions, dtype=torch.float64))
        turn = implied_yaw(actions) if yaw is None else torch.as_tensor(yaw, dtype=torch.float64)
        rotations, centres = _poses(actions, turn, lateral, heading)
        images = [self._render(scene, rotations[t].numpy(), centres[t].numpy(), t) for t in range(len(centres))]
        return ClipSample(
            frames=torch.from_numpy(np.stack(images)), actions=actions.float(), yaw=turn.float(), camera=self.camera,
            fps=self.fps, clip_id=f"simulator_{seed}", R=rotations, C=centres,
        )  # fmt: skip

    def _ray_grid(self) -> np.ndarray:
        """Ray directions in camera axes, ``(H*s, W*s, 3)`` float32."""
        s, camera = self.supersample, self.camera
        fx, fy, cx, cy = camera.params[:4]
        u = ((np.arange(self.width * s) + 0.5) / s - cx) / fx
        v = ((np.arange(self.height * s) + 0.5) / s - cy) / fy
        x, y = np.meshgrid(u, v)
        if self.camera_model == "PINHOLE":
            return np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)
        angle = np.hypot(x, y)
        scale = np.sinc(angle / np.pi)
        return np.stack([x * scale, y * scale, np.cos(angle)], -1).astype(np.float32)

    def _scene(self, rng: np.random.Generator) -> Scene:
        """Colours and movers of a seed."""
        movers = np.stack(
            [
                rng.uniform(6, 40, self.movers),
                np.where(rng.random(self.movers) < 0.5, -1, 1) * rng.uniform(1.5, 2.8, self.movers),
                rng.uniform(-0.8, 1.6, self.movers),
            ],
            1,
        )
        return Scene(int(rng.integers(2**31)), rng.uniform(-18, 18, (4, 3)).astype(np.float32), movers)

    def _render(self, scene: Scene, rotation: np.ndarray, centre: np.ndarray, time: int) -> np.ndarray:
        """One frame ``(3, H, W)`` uint8."""
        rays = self._rays @ rotation.astype(np.float32).T
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = np.where(rays[..., 1] > 1e-4, self.camera_height / rays[..., 1], np.inf)
            wall, side = _wall_hits(rays, centre)
        top = wall * rays[..., 1] < self.camera_height - WALL_HEIGHT
        wall = np.where(top, np.inf, wall)
        nearest = np.minimum(ground, wall)
        depth = np.where(np.isfinite(nearest), nearest, 1e4).astype(np.float32)
        x = centre[0] + depth * rays[..., 0]
        z = centre[2] + depth * rays[..., 2]
        y = depth * rays[..., 1]
        colour = np.where(
            (wall < ground)[..., None],
            _wall_colour(scene, side, z, y, depth),
            _ground_colour(scene, x, z, depth, self.detail),
        )
        colour = np.where(np.isfinite(nearest)[..., None], colour, np.array([150, 180, 215], np.float32))
        depth, colour = self._draw_movers(scene, rays, centre, time, depth, colour)
        haze = np.exp(-depth / FOG)[..., None]
        colour = colour * haze + np.array([175, 190, 205], np.float32) * (1 - haze)
        s = self.supersample
        small = colour.reshape(self.height, s, self.width, s, 3).mean((1, 3))
        result: np.ndarray = np.clip(np.rint(small), 0, 255).astype(np.uint8).transpose(2, 0, 1)
        return result

    def _draw_movers(
        self, scene: Scene, rays: np.ndarray, centre: np.ndarray, time: int, depth: np.ndarray, colour: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put boxes 1.8 x 1.6 x 4 m over the picture where they are nearer."""
        for number, (start, lateral, speed) in enumerate(scene.movers):
            low = np.array([lateral - 0.9, self.camera_height - 1.6, start + speed * time]) - centre * [1, 0, 1]
            high = low + np.array([1.8, 1.6, 4.0])
            with np.errstate(divide="ignore", invalid="ignore"):
                a, b = low / rays, high / rays
            near = np.nanmax(np.minimum(a, b), -1)
            far = np.nanmin(np.maximum(a, b), -1)
            hit = (near < far) & (near > 0.1) & (near < depth)
            shade = 60 + 120 * float(_hash(np.array([number]), np.array([7]), scene.salt)[0])
            paint = np.array([shade, 40 + 20 * number % 60, 200 - shade], np.float32)
            depth = np.where(hit, near, depth).astype(np.float32)
            colour = np.where(hit[..., None], paint, colour)
        return depth, colour


def _random_drive(rng: np.random.Generator, steps: int, lateral: float, heading: float) -> np.ndarray:
    """Arcs ``(steps, 2)`` with smooth speed and curvature, steered back inside the street."""
    speed, curvature = rng.uniform(0, SPEED), rng.uniform(-CURVATURE, CURVATURE)
    pull = rng.uniform(-ACCELERATION, ACCELERATION)
    actions = np.zeros((steps, 2))
    for n in range(steps):
        turn = speed * curvature
        if abs(lateral + speed * math.sin(heading + turn / 2) * 3) > LIMIT - 0.5 and lateral * heading > 0:
            curvature = -math.copysign(CURVATURE, lateral)
        turn = speed * curvature
        chord = speed * np.sinc(turn / 2 / np.pi)
        step = chord * np.array([math.cos(turn / 2), math.sin(turn / 2)])
        if abs(lateral + step[0] * math.sin(heading) + step[1] * math.cos(heading)) > LIMIT:
            step, turn = step * 0, 0.0
        actions[n] = step
        lateral += step[0] * math.sin(heading) + step[1] * math.cos(heading)
        heading += turn
        speed = float(np.clip(speed + pull, 0, SPEED))
    return actions


def _poses(actions: Tensor, yaw: Tensor, lateral: float, heading: float) -> tuple[Tensor, Tensor]:
    """Poses camera -> world of a level camera: R ``(T, 3, 3)``, C ``(T, 3)`` float64; world z runs along the street."""
    path = integrate_actions(actions, yaw)
    angle = path[:, 2] + heading
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rotations = torch.stack([cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos], -1).view(-1, 3, 3)
    forward, right = path[:, 0], path[:, 1]
    x = lateral + forward * math.sin(heading) + right * math.cos(heading)
    z = forward * math.cos(heading) - right * math.sin(heading)
    return rotations, torch.stack([x, zero, z], -1)


def _wall_hits(rays: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearer wall along each ray and which one it is (-1 left, 1 right)."""
    left = (-WALL - centre[0]) / rays[..., 0]
    right = (WALL - centre[0]) / rays[..., 0]
    left, right = (np.where(d > 1e-3, d, np.inf) for d in (left, right))
    return np.minimum(left, right).astype(np.float32), np.where(left < right, -1, 1)


def _ground_colour(scene: Scene, x: np.ndarray, z: np.ndarray, depth: np.ndarray, detail: float) -> np.ndarray:
    """Tiles 1.0 x 1.5 m, fine noise of 0.27 m cells that fades with distance, kerb, side lines and a dashed centre."""
    tile = _hash(_cell(x, 1.0), _cell(z, 1.5), scene.salt)
    fine = _hash(_cell(x, 0.27), _cell(z, 0.27), scene.salt + 1) - 0.5
    level = 70 + 70 * tile + 255 * detail * fine * np.exp(-depth / 15)
    road = np.abs(x) < ROAD
    colour = level[..., None] + np.where(
        road[..., None], scene.tint[0] - 15, scene.tint[1] + np.array([5, 30, 0], np.float32)
    )
    side = np.abs(np.abs(x) - ROAD + 0.25) < 0.09
    dash = (np.abs(x) < 0.09) & (np.mod(z, 6.0) < 3.0)
    return np.where((side | dash)[..., None], np.float32(235), colour)


def _wall_colour(scene: Scene, side: np.ndarray, z: np.ndarray, y: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Blocks of 5 m in one colour each, with windows."""
    block = _cell(z, 5.0)
    parts = [_hash(block, side.astype(np.int64) + 10 * c, scene.salt + 2) for c in range(3)]
    base = 60 + 150 * np.stack(parts, -1) + scene.tint[2]
    window = (np.mod(z, 2.5) > 0.8) & (np.mod(y, 1.7) > 0.7)
    lit = _hash(_cell(z, 2.5), _cell(y, 1.7) * 3 + side, scene.salt + 3)
    panes = (25 + 90 * lit)[..., None] + np.array([0, 8, 20], np.float32)
    shade = (0.5 + 0.5 * np.exp(-depth / 60))[..., None]
    result: np.ndarray = np.where(window[..., None], panes, base) * shade
    return result


def _cell(value: np.ndarray, size: float) -> np.ndarray:
    return np.floor(value / size).astype(np.int64)


def _hash(a: np.ndarray, b: np.ndarray, salt: int) -> np.ndarray:
    """Uniform [0, 1) float32 from two integers and a salt."""
    word = (a * 73856093 ^ b * 19349663 ^ np.int64(salt * 83492791 % 2**31)).astype(np.uint32)
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x45D9F3B)
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x45D9F3B)
    word ^= word >> np.uint32(16)
    result: np.ndarray = (word >> np.uint32(8)).astype(np.float32) / np.float32(2**24)
    return result
