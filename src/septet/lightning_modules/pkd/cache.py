"""Teacher maps on disk: raw neck outputs as float16 memory maps, one for each (image, flip)."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

_VERSION = "1"


def cache_bytes(level_shapes: Sequence[Sequence[int]], images: int, *, flips: int = 1, itemsize: int = 2) -> int:
    """Size of a cache: the sum over levels of ``C * H * W * itemsize``, for each image and flip.

    Args:
        level_shapes: (C, H, W) of each level.
        images: number of images.
        flips: 2 where flipped images are stored too.
        itemsize: bytes per value.

    Example:
        >>> cache_bytes([(256, 100, 168)], 1)
        8601600
    """
    return sum(prod(shape) for shape in level_shapes) * itemsize * images * flips


def prepare_folder(folder: Path) -> None:
    """Make the folder of a cache and prove that it can be written.

    Raises:
        ValueError: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"the cache folder {folder} cannot be written ({reason}); give cache another folder, or null"
        ) from error


def refuse_other(folder: Path, header: Mapping[str, str], *, whole: bool = True) -> None:
    """Refuse an existing cache of another header.

    Args:
        folder: of the cache.
        header: what must agree.
        whole: whether the stored header may hold nothing else.

    Raises:
        ValueError: a field differs (names it), or the stored header cannot be read.
    """
    try:
        stored = json.loads((folder / "header.json").read_text())["header"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the feature cache in {folder} has a damaged header.json; delete the folder") from error
    for field in sorted({*stored, *header} if whole else header):
        if stored.get(field) != header.get(field):
            raise ValueError(
                f"the feature cache in {folder} was made with {field} = {stored.get(field)!r}, this run has "
                f"{header.get(field)!r}; delete the folder or choose another"
            )


class FeatureCache:
    """Memory-mapped maps keyed by (image id, flip).

    Maps are stored unnormalised, because the statistics of the loss belong to the batch. Make one with
    :meth:`create` or :meth:`open`.
    """

    def __init__(self, folder: Path, mode: Literal["r+", "w+"]) -> None:
        self.folder = folder
        content = json.loads((folder / "header.json").read_text())
        self.header: dict[str, str] = content["header"]
        self.flips: int = content["flips"]
        self.shapes = [tuple(shape) for shape in content["level_shapes"]]
        self._rows = {image: row for row, image in enumerate(content["images"])}
        entries = len(self._rows) * self.flips
        self._written: Any = np.memmap(folder / "written.bin", np.uint8, mode, shape=(entries,))
        self._levels: list[Any] = [
            np.memmap(folder / f"level{i}.bin", np.float16, mode, shape=(entries, *shape))
            for i, shape in enumerate(self.shapes)
        ]

    @classmethod
    def create(
        cls,
        folder: Path | str,
        header: Mapping[str, str],
        images: Sequence[int],
        level_shapes: Sequence[Sequence[int]],
        *,
        flips: int = 2,
        limit_gb: float = 50.0,
    ) -> "FeatureCache":
        """Make an empty cache.

        Args:
            folder: made if absent.
            header: what an opener must agree on (teacher, configuration, transforms, padded shape).
            images: image ids.
            level_shapes: (C, H, W) of each level.
            flips: 2 where flipped images are stored too.
            limit_gb: largest size allowed, in 10^9 bytes.

        Raises:
            ValueError: larger than the limit.
        """
        size = cache_bytes(level_shapes, len(images), flips=flips)
        if size > limit_gb * 1e9:
            raise ValueError(
                f"the feature cache would take {size} bytes ({size / 1e9:.1f} GB), over the limit of {limit_gb:g} GB: "
                "raise cache_limit_gb, use fewer or smaller images, or set cache: null"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"version": _VERSION, "header": dict(header), "images": [int(i) for i in images], "flips": flips}
        content["level_shapes"] = [[int(n) for n in shape] for shape in level_shapes]
        (folder / "header.json").write_text(json.dumps(content))
        return cls(folder, "w+")

    @classmethod
    def open(cls, folder: Path | str, header: Mapping[str, str]) -> "FeatureCache":
        """Open an existing cache for reading and writing.

        Raises:
            FileNotFoundError: no cache there.
            ValueError: its header differs (names the field).
        """
        folder = Path(folder)
        if not (folder / "header.json").is_file():
            raise FileNotFoundError(f"no feature cache in {folder}")
        refuse_other(folder, header)
        return cls(folder, "r+")

    def _entry(self, image_id: int, flip: int) -> int:
        if image_id not in self._rows or not 0 <= int(flip) < self.flips:
            raise KeyError(f"image {image_id} with flip {int(flip)} is not part of this cache")
        return self._rows[image_id] * self.flips + int(flip)

    def has(self, image_id: int, flip: int) -> bool:
        """Whether the maps of this image were written."""
        return bool(self._written[self._entry(image_id, flip)])

    def check_shape(self, padded: Sequence[int]) -> None:
        """Refuse a batch of another padded size than the cache was made for (ValueError)."""
        expected = self.header.get("padded_shape")
        given = f"{padded[0]}x{padded[1]}"
        if expected is not None and expected != given:
            raise ValueError(
                f"padded_shape is {expected} in the feature cache, this batch has {given}: a cache needs one "
                "fixed size (equal aspect ratios); set cache: null"
            )

    def write(self, image_id: int, flip: int, levels: Sequence[Tensor]) -> None:
        """Store the maps ``(C, H, W)`` of one image as float16.

        Raises:
            KeyError: unknown image.
            ValueError: another number or shape of levels.
        """
        entry = self._entry(image_id, flip)
        given = [tuple(level.shape) for level in levels]
        if given != self.shapes:
            raise ValueError(f"levels of shape {given} for a cache of {self.shapes}")
        for stored, level in zip(self._levels, levels, strict=True):
            stored[entry] = level.detach().to("cpu", torch.float16).numpy()
        self._written[entry] = 1

    def read(self, image_ids: Sequence[int], flips: Sequence[int]) -> list[Tensor]:
        """Maps of a batch: for each level ``(N, C, H, W)`` float16.

        Raises:
            KeyError: one was never written.
        """
        entries = [self._entry(i, f) for i, f in zip(image_ids, flips, strict=True)]
        for entry, image, flip in zip(entries, image_ids, flips, strict=True):
            if not self._written[entry]:
                raise KeyError(f"image {image} with flip {int(flip)} was never written to this cache")
        return [torch.from_numpy(np.array(level[entries])) for level in self._levels]
