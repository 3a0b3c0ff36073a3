"""Where teacher maps come from: the live teacher, or a cache that the first epoch fills."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.lightning_modules.pkd.cache import FeatureCache, refuse_other
from septet.lightning_modules.pkd.preprocess import Normalisation
from septet.lightning_modules.pkd.teachers import Teacher


class FeatureSupply:
    """Maps of each teacher for a batch, live.

    Args:
        teachers: holders.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self.teachers = list(teachers)
        self.live_calls = 0
        self._folder: Path | None = None
        self._caches: dict[int, FeatureCache] = {}
        self._header: dict[str, str] = {}
        self._images: list[int] = []
        self._limit_gb = 0.0

    @classmethod
    def with_cache(cls, teachers: Sequence[Teacher], data: Any, folder: Path, limit_gb: float) -> "FeatureSupply":
        """Maps written through to memory maps under ``folder`` in the first epoch, read back afterwards.

        Args:
            teachers: holders.
            data: the data module.
            folder: one sub-folder for each teacher.
            limit_gb: refuse larger caches.

        Raises:
            ValueError: a random-geometry pipeline, several processes, a cache of another teacher or other transforms.
        """
        if not data.fixed_geometry():
            raise ValueError("the feature cache needs a fixed-size pipeline; remove train_pipeline or set cache: null")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ValueError("the feature cache is for one process; set cache: null under distributed training")
        supply = cls(teachers)
        supply._folder, supply._limit_gb = folder, limit_gb
        supply._images = data.train_image_ids()
        supply._header = {"transforms": data.transform_hash()}
        for number, teacher in enumerate(teachers):
            if (folder / f"teacher{number}" / "header.json").is_file():
                known = {**teacher.identity(), **supply._header}
                refuse_other(folder / f"teacher{number}", known, whole=False)
        return supply

    def features(
        self,
        teacher: int,
        images: Tensor,
        source: Normalisation,
        valid: Sequence[tuple[int, int]],
        samples: Sequence[Any],
    ) -> list[Tensor]:
        """Maps of a normalised batch, one for each level.

        Args:
            teacher: number of the teacher.
            images: ``(N, 3, H, W)``.
            source: statistics of ``images``.
            valid: unpadded sizes.
            samples: mmdet data samples, whose image ids and flips key the cache.
        """
        if self._folder is None:
            return self._live(teacher, images, source, valid)
        keys = [(int(s.img_id), int(bool(s.metainfo.get("flip", False)))) for s in samples]
        cache = self._caches.get(teacher)
        if cache is not None:
            cache.check_shape(images.shape[-2:])
        missing = [n for n, key in enumerate(keys) if cache is None or not cache.has(*key)]
        if missing:
            maps = self._live(teacher, images[missing], source, [valid[n] for n in missing])
            if cache is None:
                cache = self._caches[teacher] = self._open(teacher, maps, images)
            for n, levels in zip(missing, zip(*maps, strict=True), strict=True):
                cache.write(*keys[n], list(levels))
            if len(missing) == len(keys):
                return maps
        assert cache is not None
        image_ids, flips = zip(*keys, strict=True)
        return [level.to(images.device, torch.float32) for level in cache.read(image_ids, flips)]

    def _live(
        self, teacher: int, images: Tensor, source: Normalisation, valid: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        self.live_calls += 1
        return self.teachers[teacher].features(images, source, valid)

    def _open(self, teacher: int, maps: Sequence[Tensor], images: Tensor) -> FeatureCache:
        """Open the cache of a teacher, creating it where absent."""
        assert self._folder is not None
        folder = self._folder / f"teacher{teacher}"
        height, width = images.shape[-2:]
        header = {**self.teachers[teacher].identity(), **self._header, "padded_shape": f"{height}x{width}"}
        if (folder / "header.json").is_file():
            return FeatureCache.open(folder, header)
        shapes = [tuple(level.shape[1:]) for level in maps]
        return FeatureCache.create(folder, header, self._images, shapes, limit_gb=self._limit_gb)
