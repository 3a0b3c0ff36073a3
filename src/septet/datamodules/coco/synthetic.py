"""Seeded pictures of filled discs, rectangles and triangles on noise, with COCO annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = ("disc", "rectangle", "triangle")
_COLOURS = ((220, 70, 60), (70, 190, 90), (70, 100, 230))


def _mask(kind: int, x: float, y: float, w: float, h: float, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Boolean ``(H, W)`` mask of one shape inside the box (x, y, w, h)."""
    width, height = size
    py, px = np.mgrid[0:height, 0:width] + 0.5
    u, v = (px - x) / w, (py - y) / h
    inside: np.ndarray[Any, Any] = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    if kind % 3 == 0:
        inside &= (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    elif kind % 3 == 2:
        inside &= np.abs(u - 0.5) <= v / 2
    return inside


def _draw(
    rng: np.random.Generator, canvas: np.ndarray[Any, Any], classes: int, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Paint one to four shapes; returns annotations without ids."""
    records = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(classes))
        w, h = rng.uniform(0.15, 0.5, size=2) * size
        x, y = rng.uniform(0, 1, size=2) * (np.array(size) - (w, h))
        mask = _mask(kind, x, y, w, h, size)
        if mask.sum() < 4:
            continue
        colour = np.array(_COLOURS[kind % 3]) + 25 * (kind // 3) + rng.normal(0, 12, 3)
        canvas[mask] = np.clip(colour + rng.normal(0, 8, (int(mask.sum()), 3)), 0, 255)
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
        crowd = int(rng.random() < 0.05)
        records.append({"category_id": kind + 1, "bbox": box, "area": int(mask.sum()), "iscrowd": crowd})
    return records


def _picture(rng: np.random.Generator, empty: bool, classes: int, size: tuple[int, int]) -> tuple[Any, list[Any]]:
    canvas = rng.normal(110, 25, (size[1], size[0], 3)).clip(0, 255)
    records = [] if empty else _draw(rng, canvas, classes, size)
    return canvas.astype(np.uint8), records


def generate_shapes(
    folder: Path | str, *, images: int, classes: int = 3, size: tuple[int, int] = (128, 96), seed: int = 0
) -> Path:
    """Write a small detection data set that needs no download.

    ``area`` is the mask's area and about one shape in twenty is a crowd; the last image has no annotation.

    Args:
        folder: gets ``annotations.json`` and ``images/*.png``.
        images: how many pictures, at least 2.
        classes: how many; beyond three the forms repeat in other shades.
        size: (width, height) in pixels.
        seed: of everything.

    Returns:
        The annotation file.

    Raises:
        ValueError: fewer than 2 images or 1 class.
    """
    if images < 2 or classes < 1:
        raise ValueError(f"need at least 2 images and 1 class, got {images} and {classes}")
    from PIL import Image

    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotations: list[dict[str, Any]] = []
    listed = []
    for number in range(1, images + 1):
        rng = np.random.default_rng([seed, number])
        canvas, records = _picture(rng, number == images, classes, size)
        name = f"{number:06d}.png"
        Image.fromarray(canvas).save(folder / "images" / name)
        listed.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for record in records:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **record})
    names = [SHAPES[i] if i < 3 else f"{SHAPES[i % 3]}{i // 3 + 1}" for i in range(classes)]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path
