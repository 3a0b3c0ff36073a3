"""Memory-mapped cache of resized images: one uint8 ``.npy`` and one JSON beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.reid.readers import Sample
from septet.datamodules.reid.synthetic import image_array

BLOCK = 64


def resized(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image ``(H, W, 3)`` uint8, resized with LANCZOS."""
    from PIL import Image

    pixels = image_array(path)
    if pixels.shape[:2] == size:
        return pixels
    out: NDArray[np.uint8] = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    return out


def order_hash(root: Path, samples: Sequence[Sample]) -> str:
    """Hash of the file order with sizes and times of change: a replaced image makes a new cache."""
    digest = hashlib.sha256()
    for s in samples:
        path = root / s.path
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a list names it, so the copy is incomplete")
        stat = path.stat()
        digest.update(f"{s.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached_images(
    root: Path, samples: Sequence[Sample], size: tuple[int, int], folder: Path, name: str, *, workers: int = 4
) -> NDArray[np.uint8]:
    """Images of ``samples`` as a read-only memory map ``(N, H, W, 3)``, built if absent.

    Building goes to ``NAME.<pid>.part.npy`` in blocks and is renamed at the end, so a half-written cache is never
    read; a broken build is taken up where it stopped (``NAME.progress.json``).

    Args:
        root: of the data set.
        samples: in the order of the rows.
        size: height and width.
        folder: of the cache.
        name: of this part, such as ``train_visible``.
        workers: threads that decode.

    Raises:
        ValueError: an unreadable image. FileNotFoundError: an image is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = order_hash(root, samples)
    stem = f"{name}_{size[0]}x{size[1]}_{digest[:12]}"
    final = folder / f"{stem}.npy"
    if not (final.is_file() and _matches(folder / f"{stem}.json", digest, len(samples))):
        _build(root, samples, size, folder, stem, digest, workers)
    table: NDArray[np.uint8] = np.load(final, mmap_mode="r")
    return table


def _matches(path: Path, digest: str, count: int) -> bool:
    if not path.is_file():
        return False
    content = json.loads(path.read_text())
    return bool(content.get("hash") == digest and content.get("count") == count)


def _build(
    root: Path, samples: Sequence[Sample], size: tuple[int, int], folder: Path, stem: str, digest: str, workers: int
) -> None:
    """Decode block by block; several processes may build at once, the last rename wins with equal bytes."""
    from numpy.lib.format import open_memmap

    part, progress = folder / f"{stem}.part.npy", folder / f"{stem}.progress.json"
    lock = folder / f"{stem}.lock"
    mine = _claim(lock)
    if not mine:
        part, progress = part.with_suffix(f".{os.getpid()}.npy"), progress.with_suffix(f".{os.getpid()}.json")
    try:
        done = json.loads(progress.read_text())["done"] if progress.is_file() and part.is_file() else 0
        shape = (len(samples), *size, 3)
        table = open_memmap(part, mode="r+" if done else "w+", dtype=np.uint8, shape=None if done else shape)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for start in range(done, len(samples), BLOCK):
                block = [root / s.path for s in samples[start : start + BLOCK]]
                for row, pixels in enumerate(pool.map(lambda p: resized(p, size), block), start):
                    table[row] = pixels
                table.flush()
                _write(progress, {"done": start + len(block)})
        del table
        _write(folder / f"{stem}.json", {"size": list(size), "hash": digest, "count": len(samples),
                                         "order": [s.path for s in samples]})  # fmt: skip
        part.replace(folder / f"{stem}.npy")
        progress.unlink(missing_ok=True)
    finally:
        if mine:
            lock.unlink(missing_ok=True)


def _claim(lock: Path) -> bool:
    """Whether this process may use the shared part file; a lock of a dead process is taken over."""
    try:
        with lock.open("x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        text = lock.read_text().strip()
        if text.isdigit() and not Path(f"/proc/{text}").exists():
            lock.write_text(str(os.getpid()))
            return True
        return False


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def agw_arrays(root: Path, modality: str, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Images and labels of AGW's ``train_{rgb,ir}_resized_{img,label}.npy``, or None if absent.

    Raises:
        ValueError: another image size, labels of another number or with gaps. FileNotFoundError: no labels.
    """
    short = "rgb" if modality == "visible" else "ir"
    path = root / f"train_{short}_resized_img.npy"
    if not path.is_file():
        return None
    images = np.load(path, mmap_mode="r")
    if images.shape[1:] != (*size, 3):
        raise ValueError(f"{path} holds images {images.shape[1:3]}, image_size is {size}: set image_size to match")
    beside = root / f"train_{short}_resized_label.npy"
    if not beside.is_file():
        raise FileNotFoundError(f"{beside} is missing; it holds the labels of {path.name}")
    labels = np.load(beside).astype(np.int64)
    if len(labels) != len(images):
        raise ValueError(f"{beside} holds {len(labels)} labels for {len(images)} images: write both arrays anew")
    gaps = np.setdiff1d(np.arange(labels.max(initial=-1) + 1), labels)
    if len(gaps) or labels.min(initial=0) < 0:
        raise ValueError(
            f"{beside}: labels must be 0..C-1 without a gap, {gaps[:5].tolist()} are missing: renumber them"
        )
    return images, labels
