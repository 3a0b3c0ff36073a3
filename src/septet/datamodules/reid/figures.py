"""Drawing one person: signed distances, coverage, blending. One unit is the image's height."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """Shape, textures, visible colours and infrared reflectances of an identity."""

    height: float
    shoulder: float
    hip: float
    legs: float
    head: float
    texture: tuple[tuple[int, float], tuple[int, float]]
    long_sleeve: bool
    skirt: bool
    hair: int
    bag: int
    visible: dict[str, Array]
    infrared: dict[str, Array]


def person(seed: int, pid: int) -> Person:
    """The identity ``pid`` of a generated set."""
    r = np.random.default_rng([seed, pid])
    shape = [r.uniform(*b) for b in ((0.72, 0.92), (0.055, 0.105), (0.04, 0.08), (0.42, 0.54), (0.038, 0.05))]
    texture: Any = tuple((int(r.integers(5)), float(r.uniform(8, 26))) for _ in range(2))
    flags = bool(r.random() < 0.5), bool(r.random() < 0.3), int(r.integers(3)), int(r.integers(3))
    visible = {
        "top": r.uniform(0.1, 0.95, (2, 3)),
        "bottom": r.uniform(0.05, 0.9, (2, 3)),
        "skin": np.array([0.85, 0.65, 0.52]) * r.uniform(0.6, 1.1),
        "hair": r.uniform(0.02, 0.4, 3),
        "bag": r.uniform(0.1, 0.9, 3),
    }
    infrared = {
        "top": r.uniform(0.25, 0.95, (2, 1)),
        "bottom": r.uniform(0.15, 0.9, (2, 1)),
        "skin": np.array([0.9]),
        "hair": r.uniform(0.05, 0.35, 1),
        "bag": r.uniform(0.1, 0.8, 1),
    }
    fields: tuple[Any, ...] = (*shape, texture, *flags, visible, infrared)
    return Person(*fields)


@dataclass(frozen=True)
class _Pose:
    """Where the parts of one image lie."""

    cx: float
    top: float
    h: float
    view: float
    stride: float
    arm: float
    phase: float


def draw_person(
    seed: int, pid: int, camera: int, number: int, infrared: bool, size: tuple[int, int], difficulty: float
) -> NDArray[np.uint8]:
    """One image ``(H, W, 3)`` uint8 of an identity at a camera; a pure function of its arguments."""
    who = person(seed, pid)
    r = np.random.default_rng([seed, pid, camera, number, int(infrared)])
    height, width = size
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], size)
    x = np.broadcast_to((0.5 * (np.arange(width) + 0.5) / width)[None], size)
    h = who.height * r.normal(1, 0.025 * difficulty)
    pose = _Pose(
        0.25 + r.normal(0, 0.015 * difficulty), 0.5 - h / 2 + r.normal(0, 0.012 * difficulty), h, r.uniform(0.75, 1.05),
        r.normal(0, 0.03 * difficulty), r.normal(0, 0.035 * difficulty), r.uniform(0, 0.6),
    )  # fmt: skip
    canvas = _background(camera, x, y, r, infrared, difficulty)
    _paint(canvas, who, pose, x, y, who.infrared if infrared else who.visible)
    return _expose(canvas, camera, r, infrared, difficulty)


def _background(camera: int, x: Array, y: Array, r: np.random.Generator, infrared: bool, difficulty: float) -> Array:
    """Camera 3 shares the room of camera 2, which is why the protocol excludes the pair."""
    c = 2 if camera == 3 else camera
    b = (37 * c % 11) / 11
    wave = 0.10 * np.sin(2 * np.pi * (x * (3 + c) + y * (1 + c % 3)))
    base = 0.35 * b + 0.25 + difficulty * wave + 0.05 * difficulty * r.normal(size=x.shape)
    tint = np.array([0.6]) if infrared else np.array([1, 0.97, 0.9])
    out: Array = base[..., None] * tint
    return out


def _expose(canvas: Array, camera: int, r: np.random.Generator, infrared: bool, difficulty: float) -> NDArray[np.uint8]:
    """Gain, offset, tint or response curve, noise."""
    gain = (0.75 + 0.1 * (camera % 4)) * r.normal(1, 0.08 * difficulty)
    canvas = canvas * gain + r.normal(0, 0.03 * difficulty)
    if infrared:
        canvas = np.clip(canvas, 0, 1) ** 1.15
        canvas = np.repeat(canvas + 0.05 * difficulty * r.normal(size=canvas.shape), 3, axis=2)
    else:
        shift = camera % 3
        canvas = canvas * (1 + 0.06 * np.array([shift - 1, 0, 1 - shift]))
        canvas = canvas + 0.03 * difficulty * r.normal(size=canvas.shape)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _blend(canvas: Array, distance: Array, colour: Array) -> None:
    """Paint a shape given by its signed distance."""
    coverage = 1 / (1 + np.exp(np.clip(distance / 0.006, -50, 50)))[..., None]
    canvas += coverage * (colour - canvas)


def _capsule(x: Array, y: Array, a: tuple[float, float], b: tuple[float, float], radius: float) -> Array:
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    out: Array = np.hypot(x - a[0] - t * dx, y - a[1] - t * dy) - radius
    return out


def _box(x: Array, y: Array, cx: float, half_width: Any, top: float, bottom: float) -> Array:
    out: Array = np.maximum(np.abs(x - cx) - half_width, np.maximum(top - y, y - bottom))
    return out


def _texture(kind: int, frequency: float, phase: float, u: Array, v: Array, colours: Array) -> Array:
    """Two colours mixed by a pattern with values 0 and 1."""
    wave = 2 * np.pi * frequency
    pattern = {
        0: lambda: np.ones_like(u, dtype=bool),
        1: lambda: np.sin(wave * v + phase) > 0,
        2: lambda: np.sin(wave * u + phase) > 0,
        3: lambda: np.sin(wave * (u + v) + phase) > 0,
        4: lambda: np.sin(wave * u + phase) * np.sin(wave * v + phase) > 0,
    }[kind]()
    out: Array = np.where(pattern[..., None], colours[0], colours[1])
    return out


def _paint(canvas: Array, who: Person, p: _Pose, x: Array, y: Array, colours: dict[str, Array]) -> None:
    """Legs, skirt, arms, torso, head, hair, bag, in this order."""
    sw, hip, head, cx = who.shoulder * p.view, who.hip * p.view, who.head, p.cx
    ys, yh, foot = p.top + 2.3 * head, p.top + p.h * (1 - who.legs), p.top + p.h
    u = (x - cx) / p.view
    top = _texture(*who.texture[0], p.phase, u, y - ys, colours["top"])
    bottom = _texture(*who.texture[1], p.phase, u, y - yh, colours["bottom"])
    for side in (-1, 1):
        a, b = (cx + side * 0.55 * hip, yh), (cx + side * (0.55 * hip + p.stride), foot - 0.01)
        _blend(canvas, _capsule(x, y, a, b, 0.028), colours["skin"] if who.skirt else bottom)
    if who.skirt:
        _blend(canvas, _box(x, y, cx, hip + 0.12 * (y - yh), yh, yh + 0.2 * p.h), bottom)
    for side in (-1, 1):
        a, b = (cx + side * sw, ys + 0.02), (cx + side * (sw + 0.02 + p.arm), ys + 0.24 * p.h / 0.85)
        _blend(canvas, _capsule(x, y, a, b, 0.018), top if who.long_sleeve else colours["skin"])
    slope = np.clip((y - ys) / max(yh - ys, 1e-6), 0, 1)
    _blend(canvas, _box(x, y, cx, sw + (hip - sw) * slope, ys, yh), top)
    _blend(canvas, np.hypot(x - cx, y - p.top - head) - head, colours["skin"])
    _blend(canvas, _hair(who, p, x, y, ys), colours["hair"])
    if who.bag == 1:
        at = cx + sw + 0.015
        _blend(canvas, _capsule(x, y, (at, yh - 0.10), (at, yh), 0.03), colours["bag"])
    elif who.bag == 2:
        _blend(canvas, _box(x, y, cx, 0.035, ys + 0.045, ys + 0.155), colours["bag"])


def _hair(who: Person, p: _Pose, x: Array, y: Array, ys: float) -> Array:
    """Short, medium or long hair as a signed distance."""
    head = who.head
    disc = np.hypot(x - p.cx, y - p.top - head)
    if who.hair < 2:
        line = p.top + (0.7 if who.hair == 0 else 1.1) * head
        short: Array = np.maximum(disc - head - 0.006, y - line)
        return short
    above = np.maximum(disc - head - 0.008, y - p.top - head)
    long: Array = np.minimum(above, _capsule(x, y, (p.cx, p.top + head), (p.cx, ys + 0.06), 0.03))
    return long
