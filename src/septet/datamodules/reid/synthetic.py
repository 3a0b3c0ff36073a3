"""A seeded stand-in for the closed data sets: drawn people in their three native layouts.

Shape and texture are shared by the modalities; visible colours say nothing about infrared reflectance, so a feature of
colour alone fails across modalities, as in reality.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.reid.figures import draw_person

Layout = Literal["sysu", "regdb", "llcm"]
LAYOUTS = ("sysu", "regdb", "llcm")


class Preset(NamedTuple):
    """Sizes of a generated set: identities per part, (visible, infrared) images per camera, pixels."""

    train: int
    val: int
    test: int
    train_images: tuple[int, int]
    test_images: tuple[int, int]
    size: tuple[int, int]
    llcm_cameras: tuple[tuple[int, ...], tuple[int, ...]]


_NINE = tuple(range(1, 10))
PRESETS = {
    "tiny": Preset(12, 4, 8, (2, 4), (2, 4), (96, 48), ((1, 2, 4), (1, 2, 3, 4, 5))),
    "small": Preset(48, 16, 32, (4, 8), (3, 5), (96, 48), (_NINE, _NINE)),
    "large": Preset(400, 112, 128, (4, 8), (4, 8), (192, 96), (_NINE, _NINE)),
}


class _Writer:
    """Draws and saves images of one set."""

    def __init__(self, root: Path, preset: Preset, seed: int, difficulty: float) -> None:
        self.root, self.preset, self.seed, self.difficulty = root, preset, seed, difficulty

    def save(self, path: str, pid: int, camera: int, number: int, infrared: bool) -> None:
        """Draw one image and write it; same seed, same bytes."""
        from PIL import Image

        size = self.preset.size
        pixels = draw_person(self.seed, pid, camera, number, infrared, size, self.difficulty)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {} if target.suffix == ".bmp" else {"quality": 95, "subsampling": 0}
        Image.fromarray(pixels).save(target, **options)

    def text(self, path: str, content: str) -> None:
        """Write a list."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def check_generator(options: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse settings of the generator that cannot work.

    Args:
        options: among ``preset``, ``seed`` and ``difficulty``.
        prefix: of the names in messages.

    Raises:
        ValueError: an unknown key or preset, a seed below 0, a difficulty below 0 or not finite.
    """
    unknown = sorted(set(options) - {"preset", "seed", "difficulty"})
    if unknown:
        raise ValueError(f"unknown {prefix}{unknown[0]}: choose among preset, seed and difficulty")
    preset, seed, difficulty = options.get("preset", "tiny"), options.get("seed", 0), options.get("difficulty", 1.0)
    if preset not in PRESETS:
        raise ValueError(f"unknown {prefix}preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"{prefix}seed={seed}: give a whole number of at least 0")
    if not isinstance(difficulty, int | float) or not 0 <= difficulty < float("inf"):
        raise ValueError(f"{prefix}difficulty={difficulty}: give a finite number of at least 0")


def write_synthetic(
    root: str | Path, layout: Layout, *, preset: str = "tiny", seed: int = 0, difficulty: float = 1.0
) -> Path:
    """Write a generated data set in a native layout.

    Args:
        root: an empty or new folder.
        layout: ``sysu``, ``regdb`` or ``llcm``.
        preset: ``tiny``, ``small`` or ``large``.
        seed: same seed, same bytes.
        difficulty: multiplies noise, background contrast and pose jitter.

    Returns:
        The root.

    Raises:
        FileExistsError: the folder is not empty. ValueError: unknown layout or preset, difficulty below 0.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    check_generator({"preset": preset, "seed": seed, "difficulty": difficulty})
    folder = Path(root)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: the generator writes into a new folder only")
    writer = _Writer(folder, PRESETS[preset], seed, difficulty)
    {"sysu": _sysu, "regdb": _regdb, "llcm": _llcm}[layout](writer)
    return folder


def _sysu(writer: _Writer) -> None:
    """Cameras 1, 2, 4, 5 visible, 3, 6 infrared; some test identities lack cameras 1 and 2."""
    preset = writer.preset
    people = preset.train + preset.val + preset.test
    rng = random.Random(f"sysu {writer.seed}")
    order = rng.sample(range(1, people + 1), people)
    train, val = sorted(order[: preset.train]), sorted(order[preset.train : preset.train + preset.val])
    test = sorted(order[preset.train + preset.val :])
    lacking = set(rng.sample(test, min(max(1, round(0.4 * len(test))), len(test) - 1)))
    counts: dict[tuple[int, int], int] = {}
    for pid in range(1, people + 1):
        visible, infrared = preset.test_images if pid in test else preset.train_images
        for camera in range(1, 7):
            if pid in lacking and camera in (1, 2):
                continue
            counts[pid, camera] = infrared if camera in (3, 6) else visible
            for n in range(1, counts[pid, camera] + 1):
                writer.save(f"cam{camera}/{pid:04d}/{n:04d}.jpg", pid, camera, n, camera in (3, 6))
    parts = {"train": train, "val": val, "test": test, "available": list(range(1, people + 1))}
    for name, ids in parts.items():
        writer.text(f"exp/{name}_id.txt", ",".join(map(str, ids)) + "\n")
    _matlab(writer, parts, counts, people)


def _matlab(writer: _Writer, parts: dict[str, list[int]], counts: dict[tuple[int, int], int], people: int) -> None:
    """The lists and ten permutations per identity and camera, as MATLAB files."""
    from scipy.io import savemat

    rng = np.random.default_rng(writer.seed)
    for name, ids in parts.items():
        savemat(writer.root / f"exp/{name}_id.mat", {"id": np.asarray([ids], dtype=np.float64)})
    cameras = np.empty((6, 1), dtype=object)
    for camera in range(1, 7):
        cells = np.empty((people, 1), dtype=object)
        for pid in range(1, people + 1):
            n = counts.get((pid, camera), 0)
            rows = [rng.permutation(n) + 1 for _ in range(10)] if n else []
            cells[pid - 1, 0] = np.asarray(rows, dtype=np.float64).reshape(len(rows), n)
        cameras[camera - 1, 0] = cells
    savemat(writer.root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cameras})


def _regdb(writer: _Writer) -> None:
    """Ten images per identity and modality, ten random halves."""
    people = writer.preset.train + writer.preset.val + writer.preset.test
    people -= people % 2
    files: dict[tuple[str, int], list[str]] = {}
    for pid in range(1, people + 1):
        for name, camera in (("Visible", 1), ("Thermal", 2)):
            letter = name[0].lower()
            paths = [f"{name}/{pid}/person_{letter}_{n:05d}_{pid}.bmp" for n in range(1, 11)]
            files[name, pid] = paths
            for n, path in enumerate(paths, 1):
                writer.save(path, pid, camera, n, name == "Thermal")
    rng = random.Random(f"regdb {writer.seed}")
    for trial in range(1, 11):
        order = rng.sample(range(1, people + 1), people)
        halves = {"train": sorted(order[: people // 2]), "test": sorted(order[people // 2 :])}
        for part, ids in halves.items():
            for name in ("Visible", "Thermal"):
                lines = [f"{p} {label}" for label, pid in enumerate(ids) for p in files[name, pid]]
                writer.text(f"idx/{part}_{name.lower()}_{trial}.txt", "\n".join(lines) + "\n")


def _llcm(writer: _Writer) -> None:
    """Visible and near infrared at every camera (no near infrared at camera 3 of the test part)."""
    preset = writer.preset
    train = preset.train + preset.val
    train_cameras, test_cameras = preset.llcm_cameras
    for short in ("vis", "nir"):
        infrared, lines = short == "nir", []
        for pid in range(1, train + 1):
            for camera in train_cameras:
                for n in range(1, preset.train_images[0] + 1):
                    name = f"{pid:04d}_c{camera:02d}_s000000_f{n:04d}_{short}.jpg"
                    path = f"{short}/{pid:04d}/{name}"
                    writer.save(path, pid, camera, n + 50 * infrared, infrared)
                    lines.append(f"{path} {pid - 1}")
        writer.text(f"idx/train_{short}.txt", "\n".join(lines) + "\n")
        for pid in range(train + 1, train + preset.test + 1):
            for camera in test_cameras:
                if infrared and camera == 3:
                    continue
                for n in range(1, preset.test_images[0] + 1):
                    name = f"{pid:04d}_c{camera:02d}_s000000_f{n:04d}_{short}.jpg"
                    writer.save(f"test_{short}/cam{camera}/{pid:04d}/{name}", pid, camera, n + 50 * infrared, infrared)
    ids = range(train + 1, train + preset.test + 1)
    writer.text("idx/test_id.txt", ",".join(map(str, ids)) + "\n")


def image_array(path: str | Path) -> NDArray[np.uint8]:
    """An image as ``(H, W, 3)`` uint8 RGB, EXIF ignored.

    Raises:
        ValueError: the file cannot be read as an image. FileNotFoundError: no such file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): replace or remove it") from error
