"""Memory-mapped cache of resized images: one uint8 ``.npy`` and one JSON beside it."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.reid.readers import Sample
from septet.datamodules.reid.synthetic import image_array

BLOCK = 64
CACHE_REMEDY = "set cache (data.init_args.cache, or --cache of prepare) to a folder that can be written"


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
        ValueError: an unreadable image, a folder that cannot be made or written. FileNotFoundError: an image is
            missing.
    """
    cache_folder(folder)
    digest = order_hash(root, samples)
    stem = f"{name}_{size[0]}x{size[1]}_{digest[:12]}"
    final = folder / f"{stem}.npy"
    if not _complete(final, folder / f"{stem}.json", digest, (len(samples), *size, 3)):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"cache {folder} cannot be written: {CACHE_REMEDY}")
        _build(root, samples, size, folder, stem, digest, workers)
    table: NDArray[np.uint8] = np.load(final, mmap_mode="r")
    return table


def cache_folder(folder: Path) -> None:
    """Make the folder of the cache.

    Raises:
        ValueError: it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache {folder} cannot be made ({error.strerror}): {CACHE_REMEDY}") from error


def _complete(final: Path, beside: Path, digest: str, shape: tuple[int, ...]) -> bool:
    """Whether a finished table and its JSON are there and whole; a damaged pair is rebuilt with a warning."""
    if not final.is_file() or not beside.is_file():
        return False
    content = _content(beside)
    if content is None or not _whole(final, shape):
        bad = beside if content is None else final
        warnings.warn(f"{bad} is damaged (truncated or empty): the cache is built anew", stacklevel=3)
        return False
    return bool(content.get("hash") == digest and content.get("count") == shape[0])


def _content(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None if it holds none."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an ``.npy`` holds a uint8 table of this shape, all its bytes included (a memory map would pad them)."""
    from numpy.lib import format as npy

    try:
        with path.open("rb") as file:
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            found, fortran, dtype = read(file)
            start = file.tell()
    except (ValueError, EOFError):
        return False
    size = start + int(np.prod(shape, dtype=np.int64))
    return found == shape and not fortran and dtype == np.uint8 and path.stat().st_size == size


def _already_done(part: Path, progress: Path, shape: tuple[int, ...]) -> int:
    """Rows that a broken build left behind; 0 with a warning if its files are damaged."""
    if not (part.is_file() and progress.is_file()):
        return 0
    done = (_content(progress) or {}).get("done")
    if isinstance(done, int) and 0 <= done <= shape[0] and _whole(part, shape):
        return done
    warnings.warn(f"{part} or {progress.name} is damaged: the cache is built from the start", stacklevel=4)
    return 0


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
        shape = (len(samples), *size, 3)
        done = _already_done(part, progress, shape)
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


def _load(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """A user's array; a damaged file is named."""
    try:
        found: NDArray[Any] = np.load(path, mmap_mode=mmap_mode)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): write it anew or delete it") from error
    return found


def agw_arrays(root: Path, modality: str, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Images and labels of AGW's ``train_{rgb,ir}_resized_{img,label}.npy``, or None if absent.

    Raises:
        ValueError: another image size, labels of another number or with gaps. FileNotFoundError: no labels.
    """
    short = "rgb" if modality == "visible" else "ir"
    path = root / f"train_{short}_resized_img.npy"
    if not path.is_file():
        return None
    images = _load(path, mmap_mode="r")
    if images.shape[1:] != (*size, 3):
        raise ValueError(f"{path} holds images {images.shape[1:3]}, image_size is {size}: set image_size to match")
    beside = root / f"train_{short}_resized_label.npy"
    if not beside.is_file():
        raise FileNotFoundError(f"{beside} is missing; it holds the labels of {path.name}")
    labels = _load(beside).astype(np.int64)
    if len(labels) != len(images):
        raise ValueError(f"{beside} holds {len(labels)} labels for {len(images)} images: write both arrays anew")
    gaps = np.setdiff1d(np.arange(labels.max(initial=-1) + 1), labels)
    if len(gaps) or labels.min(initial=0) < 0:
        raise ValueError(
            f"{beside}: labels must be 0..C-1 without a gap, {gaps[:5].tolist()} are missing: renumber them"
        )
    return images, labels
