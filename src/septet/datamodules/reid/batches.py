"""Training quadruples and evaluation chunks as data sets of whole batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from septet.datamodules.reid.cache import resized
from septet.datamodules.reid.evaluation import EvaluationSet
from septet.datamodules.reid.readers import Sample
from septet.datamodules.reid.sampler import CrossModalPKBatchSampler
from septet.datamodules.reid.transforms import STREAMS, QuadAugmentation, normalise


class QuadBatch(NamedTuple):
    """Four streams ``(P*K, 3, H, W)`` float32 and labels ``(P*K,)``, rows in the order of the pairs."""

    visible: Tensor
    visible_aug: Tensor
    infrared: Tensor
    infrared_aug: Tensor
    labels: Tensor


class SideBatch(NamedTuple):
    """Some images of one side of an evaluation: ``(B, 3, H, W)``, identities, cameras and places ``(B,)``."""

    images: Tensor
    ids: Tensor
    cams: Tensor
    place: Tensor


class EvalBatch(NamedTuple):
    """A chunk of queries and a chunk of the gallery; either may be empty."""

    query: SideBatch
    gallery: SideBatch


class TaggedPairs(CrossModalPKBatchSampler):
    """The pairs with their epoch and place in it, from which workers draw the augmentation."""

    def __iter__(self) -> Iterator[list[Any]]:
        epoch, start = self.epoch, self.start
        for number, pairs in enumerate(super().__iter__(), start):
            first = (number * self.world_size + self.rank) * len(pairs)
            yield [(epoch, first + slot, v, i) for slot, (v, i) in enumerate(pairs)]


class QuadrupleDataset(Dataset[QuadBatch]):
    """Batches of four augmented streams from two uint8 tables.

    Args:
        visible: images ``(V, H, W, 3)``.
        infrared: images ``(I, H, W, 3)``.
        labels: of the visible images.
        augment: the recipe.
    """

    def __init__(
        self, visible: NDArray[np.uint8], infrared: NDArray[np.uint8], labels: NDArray[Any], augment: QuadAugmentation
    ) -> None:
        self.visible, self.infrared, self.labels, self.augment = visible, infrared, labels, augment

    def __getitems__(self, items: Sequence[tuple[int, int, int, int]]) -> QuadBatch:
        """The batch of ``(epoch, place, visible index, infrared index)``."""
        epoch = items[0][0]
        places = [place for _, place, _, _ in items]
        visible = [self.visible[item[2]] for item in items]
        infrared = [self.infrared[item[3]] for item in items]
        v, v_aug = self.augment.streams(visible, STREAMS[:2], epoch, places)
        i, i_aug = self.augment.streams(infrared, STREAMS[2:], epoch, places)
        labels = torch.as_tensor(self.labels[[item[2] for item in items]], dtype=torch.int64)
        return QuadBatch(v, v_aug, i, i_aug, labels)

    def __getitem__(self, item: tuple[int, int, int, int]) -> QuadBatch:
        return self.__getitems__([item])

    def __len__(self) -> int:
        return max(len(self.visible), len(self.infrared))


class EvaluationDataset(Dataset[EvalBatch]):
    """Item n is the n-th chunk of queries with the n-th chunk of the gallery.

    Args:
        evaluation: samples of both sides.
        size: images per side and item.
        image_size: height and width.
        tables: uint8 images of query and gallery, or None to read the files.
        root: of the files.
    """

    def __init__(
        self, evaluation: EvaluationSet, size: int, image_size: tuple[int, int],
        tables: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None, root: Path,
    ) -> None:  # fmt: skip
        self.sides = (evaluation.query, evaluation.pool)
        self.size, self.image_size, self.tables, self.root = size, image_size, tables, root

    def __len__(self) -> int:
        return -(-max(map(len, self.sides)) // self.size)

    def __getitem__(self, number: int) -> EvalBatch:
        rows = slice(number * self.size, (number + 1) * self.size)
        return EvalBatch(self._side(0, rows), self._side(1, rows))

    def _side(self, side: int, rows: slice) -> SideBatch:
        samples = self.sides[side][rows]
        if not samples:
            pixels = np.zeros((0, *self.image_size, 3), np.uint8)
        elif self.tables is not None:
            pixels = np.array(self.tables[side][rows])
        else:
            pixels = np.stack([resized(self.root / s.path, self.image_size) for s in samples])
        return SideBatch(normalise(pixels), *_columns(samples, rows.start))


def _columns(samples: Sequence[Sample], start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Identities, cameras and indices as tensors."""
    ids, cams = ([getattr(s, name) for s in samples] for name in ("pid", "cam"))
    index = torch.arange(start, start + len(samples))
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(cams, dtype=torch.int64), index
