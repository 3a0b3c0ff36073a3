"""A clip of driving video with its motions, and the few rules every source shares."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

CameraModel = Literal["PINHOLE", "OPENCV_FISHEYE"]
_PARAMS = {"PINHOLE": 4, "OPENCV_FISHEYE": 8}


@dataclass(frozen=True)
class Camera:
    """Intrinsics in COLMAP's convention: pixel centres lie at +0.5.

    Args:
        model: ``PINHOLE`` or ``OPENCV_FISHEYE``.
        params: fx, fy, cx, cy and for the fisheye k1..k4.
        width: pixels.
        height: pixels.

    Raises:
        ValueError: unknown model, wrong number of parameters, or a size below 1.
    """

    model: CameraModel
    params: tuple[float, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.model not in _PARAMS:
            raise ValueError(f"unknown camera model {self.model!r}: choose {', '.join(_PARAMS)}")
        if len(self.params) != _PARAMS[self.model]:
            raise ValueError(f"{self.model} has {_PARAMS[self.model]} parameters, got {len(self.params)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a camera of {self.width}x{self.height} pixels")

    def resized(self, width: int, height: int) -> Camera:
        """The same camera after its images were resized; aspect may change."""
        sx, sy = width / self.width, height / self.height
        fx, fy, cx, cy, *rest = self.params
        return replace(self, params=(fx * sx, fy * sy, cx * sx, cy * sy, *rest), width=width, height=height)


@dataclass
class ClipSample:
    """Frames and the motions between them.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8.
        actions: row n is the motion leaving frame n, (forward, right) metres, ``(T-1, 2)`` float32.
        yaw: turn of each step ``(T-1,)`` float32 radians, positive to the right, or None.
        camera: intrinsics of these frames, or None.
        fps: frames per second after the stride.
        clip_id: name in its source.
        R: rotations camera -> world ``(T, 3, 3)`` float64, where known.
        C: centres ``(T, 3)`` float64, where known.
        subset: named part of the data set.
        text: description.
    """

    frames: Tensor
    actions: Tensor
    yaw: Tensor | None
    camera: Camera | None
    fps: float
    clip_id: str
    R: Tensor | None = None
    C: Tensor | None = None
    subset: str | None = None
    text: str | None = None


def parse_action(text: str) -> tuple[float, float, float]:
    """Numbers of one action line, ``[x y z]`` as numpy prints it, metres.

    Raises:
        ValueError: not exactly three finite numbers between one pair of brackets.
    """
    match = re.fullmatch(r"\[([^\[\]]*)\]", text.strip())
    words = match.group(1).split() if match else []
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"malformed action {text!r}: expected three finite numbers such as [0.1 -0.02 1.2]")
    return numbers[0], numbers[1], numbers[2]


def number_prefix(name: str) -> int | None:
    """Leading number of a file name, by which frames and actions are paired; None without one."""
    match = re.match(r"\d+", name)
    return int(match.group()) if match else None


def sorted_by_number(paths: Iterable[Path]) -> list[Path]:
    """Files whose names begin with a number, in order of it; others are left out."""
    numbered = [(number_prefix(p.name), p) for p in paths]
    return [p for n, p in sorted((n, p) for n, p in numbered if n is not None)]


def split_by_vehicle(
    clip_ids: Sequence[str], fractions: tuple[float, float] = (0.9, 0.1), seed: int = 0
) -> dict[str, list[str]]:
    """Split clips by vehicle, the part of the id before the first underscore: a vehicle is in one part only.

    Args:
        clip_ids: such as ``vehicle_session_start_end``.
        fractions: shares of vehicles for training and validation, rounded; a share above 0 has at least one vehicle
            where there are two.
        seed: of the order of vehicles.

    Raises:
        ValueError: fractions that are negative or sum to more than 1.
    """
    if min(fractions) < 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(f"fractions={fractions} must not be negative nor sum to more than 1")
    vehicles = sorted({c.split("_")[0] for c in clip_ids})
    order = [vehicles[i] for i in np.random.default_rng(seed).permutation(len(vehicles))]
    first = round(fractions[0] * len(order))
    last = min(len(order), round(sum(fractions) * len(order)))
    if len(order) > 1 and min(fractions) > 0:  # rounding leaves no share empty
        first = min(max(first, 1), len(order) - 1)
        last = max(last, first + 1)
    parts = {"train": set(order[:first]), "val": set(order[first:last])}
    return {name: [c for c in clip_ids if c.split("_")[0] in chosen] for name, chosen in parts.items()}


def window_start(length: int, frames: int, stride: int, *, seed: int, epoch: int, index: int) -> int:
    """First source frame of a window, a pure function of (seed, epoch, index).

    Raises:
        ValueError: ``frames`` or ``stride`` below 1, or a window longer than the clip.
    """
    last = last_start(length, frames, stride)
    digest = hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (last + 1)


def last_start(length: int, frames: int, stride: int, clip: str | None = None) -> int:
    """Last possible start of a window of ``frames`` at ``stride`` in ``length`` source frames."""
    if frames < 1 or stride < 1:
        raise ValueError(f"frames={frames}, stride={stride}: both must be at least 1")
    last = length - 1 - (frames - 1) * stride
    if last < 0:
        where = f"clip {clip!r}" if clip else "the clip"
        need = (frames - 1) * stride + 1
        raise ValueError(f"{where} has length {length}, a window of {frames} at stride {stride} needs {need} frames")
    return last


def check_actions(actions: Tensor, frames: int | None = None) -> Tensor:
    """Actions as ``(n, 2)`` finite numbers that fit ``frames`` (n = T-1; a T-th row is ignored).

    Raises:
        ValueError: otherwise.
    """
    if actions.ndim != 2 or actions.shape[1] != 2:
        raise ValueError(f"actions of shape {tuple(actions.shape)}: expected (n, 2), forward and right in metres")
    if not bool(actions.isfinite().all()):
        raise ValueError("actions hold values that are not finite")
    if frames is not None:
        if len(actions) not in (frames - 1, frames):
            raise ValueError(f"{len(actions)} actions beside {frames} frames: expected {frames - 1}")
        actions = actions[: frames - 1]
    return actions
