"""Augmentation of the four streams: per-image functions on tensors, and the geometric part on uint8 arrays.

Every function draws from a given ``random.Random`` in a fixed order, so an image is a pure function of its seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (0.4914, 0.4822, 0.4465)
LUMA = (0.2989, 0.5870, 0.1140)
PAD = 10
STREAMS = ("visible", "visible_aug", "infrared", "infrared_aug")


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """uint8 ``(N, H, W, 3)`` to ImageNet-normalised float32 ``(N, 3, H, W)``."""
    scale = torch.tensor([1 / (255 * s) for s in STD]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)]).view(3, 1, 1)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.mul_(scale).add_(shift)


def random_erasing(
    image: Tensor,
    rng: random.Random,
    *,
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    min_aspect: float = 0.3,
    fill: tuple[float, float, float] = FILL,
) -> Tensor:
    """Fill a random rectangle with ``fill`` (in normalised space).

    Args:
        image: ``(3, H, W)``.
        rng: source of the draws.
        p: probability.
        area: share of the image.
        min_aspect: aspect ratio in ``min_aspect .. 1 / min_aspect``.
        fill: one value per channel.
    """
    if rng.uniform(0, 1) > p:
        return image.clone()
    height, width = image.shape[1:]
    for _ in range(100):
        target = rng.uniform(*area) * height * width
        aspect = rng.uniform(min_aspect, 1 / min_aspect)
        h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if w < width and h < height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            out = image.clone()
            out[:, top : top + h, left : left + w] = torch.tensor(fill, dtype=image.dtype).view(3, 1, 1)
            return out
    return image.clone()


def channel_exchange(image: Tensor, rng: random.Random, *, gray: int = 2) -> Tensor:
    """Copy one channel to all; number 3 (only if ``gray`` >= 3) is the luma."""
    k = rng.randint(0, gray)
    return _luma(image) if k == 3 else image[k].expand_as(image).clone()


def channel_adaptive_gray(image: Tensor, rng: random.Random, *, p: float = 0.5) -> Tensor:
    """The green channel on all, or the luma with probability ``p``, or nothing."""
    if rng.randint(0, 1) == 0:
        return image[1].expand_as(image).clone()
    return image.clone() if rng.uniform(0, 1) > p else _luma(image)


def channel_scale(image: Tensor, rng: random.Random, *, p: float = 0.5) -> Tensor:
    """Multiply each channel by twice a uniform draw from .01 .. .5, with probability ``p``."""
    if rng.uniform(0, 1) > p:
        return image.clone()
    factors = [2 * rng.uniform(0.01, 0.5) for _ in range(3)]
    return image * torch.tensor(factors, dtype=image.dtype).view(3, 1, 1)


def _luma(image: Tensor) -> Tensor:
    grey = LUMA[0] * image[0] + LUMA[1] * image[1] + LUMA[2] * image[2]
    return grey.expand_as(image).clone()


def grey_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """ITU-R 601 luma of ``(H, W, 3)`` uint8 on three channels, rounded as image libraries do."""
    wide = image.astype(np.uint32)
    luma = (wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000) >> 16
    return np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)


def pad_crop_flip(image: NDArray[Any], rng: random.Random, *, pad: int = PAD) -> NDArray[np.uint8]:
    """Zero padding, random crop to the old size, horizontal flip with probability one half."""
    height, width = image.shape[:2]
    dy, dx, flip = rng.randint(-pad, pad), rng.randint(-pad, pad), rng.random() < 0.5
    out = np.zeros_like(image)
    rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    piece = image[rows, columns]
    top, left = max(-dy, 0), max(-dx, 0)
    if flip:
        left = width - left - piece.shape[1]
        piece = piece[:, ::-1]
    out[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return out


@dataclass(frozen=True)
class QuadAugmentation:
    """The published recipe for the four streams; twins are independent draws.

    Attributes:
        seed: of the run; with the epoch and the place in the epoch it fixes every draw.
        shared_crop: twins share crop and flip.
        exchange_first: channel exchange before Normalize instead of after.
    """

    seed: int = 0
    shared_crop: bool = False
    exchange_first: bool = False

    def before(self, image: NDArray[Any], stream: str, epoch: int, index: int) -> NDArray[np.uint8]:
        """The part on uint8 ``(H, W, 3)``: grey or jitter, pad, crop, flip."""
        rng = self._rng(epoch, index, stream, "colour")
        if stream == "visible" and rng.random() < 0.5:
            image = grey_uint8(image)
        elif stream == "infrared_aug":
            table = np.clip(np.arange(256) * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)
            image = table[image]
        twin = stream.removesuffix("_aug") if self.shared_crop else stream
        image = pad_crop_flip(image, self._rng(epoch, index, twin, "crop"))
        if self.exchange_first and stream == "visible_aug":
            k = self._rng(epoch, index, stream, "exchange").randint(0, 2)
            image = np.repeat(image[..., k : k + 1], 3, axis=2)
        return image

    def after(self, image: Tensor, stream: str, epoch: int, index: int) -> Tensor:
        """The part on a normalised ``(3, H, W)``: erase, then the stream's channel operation."""
        rng = self._rng(epoch, index, stream, "erase")
        image = random_erasing(image, rng)
        if stream == "visible_aug" and not self.exchange_first:
            return channel_exchange(image, rng)
        if stream == "infrared":
            return channel_adaptive_gray(image, rng)
        return channel_scale(image, rng) if stream == "infrared_aug" else image

    def _rng(self, *parts: Any) -> random.Random:
        return random.Random(f"{self.seed}/{'/'.join(map(str, parts))}")

    def stream(self, images: list[NDArray[Any]], stream: str, epoch: int, indices: list[int]) -> Tensor:
        """A batch of one stream ``(N, 3, H, W)``: one normalisation for all, the rest per image."""
        pairs = zip(images, indices, strict=True)
        batch = normalise(np.stack([self.before(image, stream, epoch, i) for image, i in pairs]))
        for row, i in enumerate(indices):
            batch[row] = self.after(batch[row], stream, epoch, i)
        return batch
