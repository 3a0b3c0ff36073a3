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

from septet.kernels.augment import Plan, native_available, write_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (0.4914, 0.4822, 0.4465)
LUMA = (0.2989, 0.5870, 0.1140)
PAD = 10
SCALE = torch.tensor([1 / (255 * s) for s in STD]).view(3, 1, 1)
SHIFT = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)]).view(3, 1, 1)
TABLES: NDArray[np.float32] = (torch.arange(256.0) * SCALE[:, 0] + SHIFT[:, 0]).numpy()
"""``(3, 256)`` normalised value of each byte, with the roundings of :func:`normalise`."""
FILLS, WEIGHTS = np.array(FILL, np.float32), np.array(LUMA, np.float32)
LUMA_CHOICE = 3
ADAPTIVE = {"green": 1, "none": -1, "luma": LUMA_CHOICE}
PURPOSES = ("colour", "crop", "exchange", "erase")
STREAMS = ("visible", "visible_aug", "infrared", "infrared_aug")


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """uint8 ``(N, H, W, 3)`` to ImageNet-normalised float32 ``(N, 3, H, W)``."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.mul_(SCALE).add_(SHIFT)


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
    return _erase(image.clone(), rng, p, area, min_aspect, fill)


def channel_exchange(image: Tensor, rng: random.Random, *, gray: int = 2) -> Tensor:
    """Copy one channel to all; number 3 (only if ``gray`` >= 3) is the luma."""
    return _exchange(image.clone(), rng, gray)


def channel_adaptive_gray(image: Tensor, rng: random.Random, *, p: float = 0.5) -> Tensor:
    """The green channel on all, or the luma with probability ``p``, or nothing."""
    return _adaptive_gray(image.clone(), rng, p)


def channel_scale(image: Tensor, rng: random.Random, *, p: float = 0.5) -> Tensor:
    """Multiply each channel by twice a uniform draw from .01 .. .5, with probability ``p``."""
    return _scale(image.clone(), rng, p)


Box = tuple[slice, slice]


def _erase(
    image: Tensor,
    rng: random.Random,
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    min_aspect: float = 0.3,
    fill: tuple[float, float, float] = FILL,
) -> Tensor:
    """:func:`random_erasing` in place."""
    box = _erase_box(image.shape[1], image.shape[2], rng, p, area, min_aspect)
    if box is not None:
        for channel, value in enumerate(fill):
            image[channel][box] = value
    return image


def _erase_box(
    height: int,
    width: int,
    rng: random.Random,
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    min_aspect: float = 0.3,
) -> Box | None:
    """The rectangle to erase, or None."""
    if rng.uniform(0, 1) > p:
        return None
    for _ in range(100):
        target = rng.uniform(*area) * height * width
        aspect = rng.uniform(min_aspect, 1 / min_aspect)
        h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if w < width and h < height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return slice(top, top + h), slice(left, left + w)
    return None


def _exchange(image: Tensor, rng: random.Random, gray: int = 2) -> Tensor:
    """:func:`channel_exchange` in place."""
    k = rng.randint(0, gray)
    return _luma(image) if k == 3 else _copy_channel(image, k)


def _adaptive_choice(rng: random.Random, p: float = 0.5) -> str:
    """What :func:`channel_adaptive_gray` does: ``green``, ``none`` or ``luma``."""
    if rng.randint(0, 1) == 0:
        return "green"
    return "none" if rng.uniform(0, 1) > p else "luma"


def _adaptive_gray(image: Tensor, rng: random.Random, p: float = 0.5) -> Tensor:
    """:func:`channel_adaptive_gray` in place."""
    choice = _adaptive_choice(rng, p)
    if choice == "green":
        return _copy_channel(image, 1)
    return image if choice == "none" else _luma(image)


def _scale(image: Tensor, rng: random.Random, p: float = 0.5) -> Tensor:
    """:func:`channel_scale` in place."""
    factors = _scale_factors(rng, p)
    return image if factors is None else image.mul_(torch.tensor(factors, dtype=image.dtype).view(3, 1, 1))


def _scale_factors(rng: random.Random, p: float = 0.5) -> list[float] | None:
    """What :func:`channel_scale` multiplies the channels by, or None."""
    return None if rng.uniform(0, 1) > p else [2 * rng.uniform(0.01, 0.5) for _ in range(3)]


def _jitter(rng: random.Random) -> NDArray[np.uint8]:
    """New value of each byte under a brightness factor of .5 .. 1.5."""
    table: NDArray[np.uint8] = np.clip(np.arange(256) * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)
    return table


def _copy_channel(image: Tensor, k: int) -> Tensor:
    for channel in {0, 1, 2} - {k}:
        image[channel] = image[k]
    return image


def _luma(image: Tensor) -> Tensor:
    image[0] = LUMA[0] * image[0] + LUMA[1] * image[1] + LUMA[2] * image[2]
    return _copy_channel(image, 0)


def grey_planes(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R 601 luma ``(H, W)`` of planes ``(3, H, W)`` uint8, rounded as image libraries do."""
    total = planes[0].astype(np.uint32)
    total *= 19595
    for plane, weight in ((planes[1], 38470), (planes[2], 7471)):
        part = plane.astype(np.uint32)
        part *= weight
        total += part
    total += 0x8000
    total >>= 16
    luma: NDArray[np.uint8] = total.astype(np.uint8)
    return luma


def crop_draws(rng: random.Random, pad: int = PAD) -> tuple[int, int, bool]:
    """Vertical and horizontal shift of the crop in -pad..pad, and the flip."""
    return rng.randint(-pad, pad), rng.randint(-pad, pad), rng.random() < 0.5


def pad_crop_flip(image: Tensor, draws: tuple[int, int, bool]) -> Tensor:
    """Zero padding, crop to the old size, horizontal flip: the readable form, any dtype ``(3, H, W)``."""
    dy, dx, flip = draws
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, (PAD, PAD, PAD, PAD))
    out = padded[:, PAD + dy : PAD + dy + height, PAD + dx : PAD + dx + width]
    return out.flip(2) if flip else out


def write_crop(out: NDArray[np.float32], planes: NDArray[np.uint8], draws: tuple[int, int, bool]) -> None:
    """:func:`pad_crop_flip` of ``(3 or 1, H, W)`` uint8 into ``(3, H, W)`` float32, without copies in between."""
    dy, dx, flip = draws
    height, width = planes.shape[1:]
    piece = planes[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    top, left = max(-dy, 0), max(-dx, 0)
    if flip:
        left = width - left - piece.shape[2]
        piece = piece[:, :, ::-1]
    bottom, right = top + piece.shape[1], left + piece.shape[2]
    out[:, :top], out[:, bottom:], out[:, :, :left], out[:, :, right:] = 0, 0, 0, 0
    out[:, top:bottom, left:right] = piece


@dataclass(frozen=True)
class QuadAugmentation:
    """The published recipe for the four streams; twins are independent draws.

    Attributes:
        seed: of the run; with the epoch and the place in the epoch it fixes every draw.
        shared_crop: twins share crop and flip.
        exchange_first: channel exchange before Normalize instead of after.
        compiled: use the compiled loop where numba is installed; the pixels are the same either way.
    """

    seed: int = 0
    shared_crop: bool = False
    exchange_first: bool = False
    compiled: bool = True

    def colour(self, planes: NDArray[np.uint8], stream: str, epoch: int, index: int) -> NDArray[np.uint8]:
        """Grey, jitter or an early channel exchange on ``(3, H, W)`` uint8; ``(1, H, W)`` where channels are equal."""
        rng = self._rng(epoch, index, stream, "colour")
        if stream == "visible" and rng.random() < 0.5:
            return grey_planes(planes)[None]
        if stream == "infrared_aug":
            flat = planes.tobytes().translate(_jitter(rng).tobytes())
            return np.frombuffer(flat, np.uint8).reshape(planes.shape)
        if stream == "visible_aug" and self.exchange_first:
            k = self._rng(epoch, index, stream, "exchange").randint(0, 2)
            return planes[k : k + 1]
        return planes

    def draws(self, stream: str, epoch: int, index: int) -> tuple[int, int, bool]:
        """Crop and flip."""
        twin = stream.removesuffix("_aug") if self.shared_crop else stream
        return crop_draws(self._rng(epoch, index, twin, "crop"))

    def after(self, image: Tensor, stream: str, epoch: int, index: int) -> Tensor:
        """The part on a normalised ``(3, H, W)``, in place: erase, then the stream's channel operation."""
        rng = self._rng(epoch, index, stream, "erase")
        image = _erase(image, rng)
        if stream == "visible_aug" and not self.exchange_first:
            return _exchange(image, rng)
        if stream == "infrared":
            return _adaptive_gray(image, rng)
        return _scale(image, rng) if stream == "infrared_aug" else image

    def _rng(self, *parts: Any) -> random.Random:
        epoch, index, stream, purpose = parts
        code = STREAMS.index(stream) * len(PURPOSES) + PURPOSES.index(purpose)
        return random.Random((((self.seed << 32 | epoch) << 40) | index) << 8 | code)

    def stream(self, images: list[NDArray[Any]], stream: str, epoch: int, indices: list[int]) -> Tensor:
        """A batch ``(N, 3, H, W)`` of one stream from images ``(H, W, 3)`` uint8."""
        return self.streams(images, (stream,), epoch, indices)[0]

    def streams(
        self, images: list[NDArray[Any]], names: tuple[str, ...], epoch: int, indices: list[int]
    ) -> list[Tensor]:
        """Batches ``(N, 3, H, W)`` of a stream and its twin; one pass over each image's memory."""
        batches = [torch.empty(len(images), 3, *images[0].shape[:2]) for _ in names]
        for number, (image, index) in enumerate(zip(images, indices, strict=True)):
            if self.native:
                for name, batch in zip(names, batches, strict=True):
                    plan = self.plan(name, epoch, index, (image.shape[0], image.shape[1]))
                    write_image(batch[number].numpy(), image, plan, backend="native")
                continue
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
            for name, batch in zip(names, batches, strict=True):
                self._write(batch[number], planes, name, epoch, index)
        return batches

    def plan(self, stream: str, epoch: int, index: int, size: tuple[int, int]) -> Plan:
        """All draws of one image: what :meth:`colour`, :meth:`draws` and :meth:`after` do, as one table look-up."""
        colour = self._rng(epoch, index, stream, "colour")
        tables, fill, source, channel = TABLES, FILLS, "channels", 0
        if stream == "visible" and colour.random() < 0.5:
            source = "grey"
        elif stream == "infrared_aug":
            tables = tables[:, _jitter(colour)]
        elif stream == "visible_aug" and self.exchange_first:
            source, channel = "one", self._rng(epoch, index, stream, "exchange").randint(0, 2)
        dy, dx, flip = self.draws(stream, epoch, index)
        rng = self._rng(epoch, index, stream, "erase")
        box = _erase_box(*size, rng)
        if stream == "infrared_aug":
            factors = _scale_factors(rng)
            if factors is not None:
                by = np.array(factors, np.float32)
                tables, fill = tables * by[:, None], fill * by
        elif stream == "infrared" or (stream == "visible_aug" and not self.exchange_first):
            choice = rng.randint(0, 2) if stream == "visible_aug" else ADAPTIVE[_adaptive_choice(rng)]
            if choice == LUMA_CHOICE:
                source, tables, fill = "sum", tables * WEIGHTS[:, None], fill * WEIGHTS
            elif choice >= 0:
                source, channel, tables, fill = "one", choice, tables[[choice] * 3], fill[[choice] * 3]
        edges = None if box is None else (box[0].start, box[0].stop, box[1].start, box[1].stop)
        return Plan(tables, fill, source, channel, (dy, dx), flip, edges)  # type: ignore[arg-type]

    @property
    def native(self) -> bool:
        """Whether the compiled loop is used."""
        return self.compiled and native_available()

    def _write(self, row: Tensor, planes: NDArray[np.uint8], stream: str, epoch: int, index: int) -> None:
        """One augmented image; where one channel is copied to all at the end, only that one is computed."""
        coloured, crop = self.colour(planes, stream, epoch, index), self.draws(stream, epoch, index)
        only = self._only_channel(row, stream, epoch, index)
        if only is None:
            write_crop(row.numpy(), coloured, crop)
            row.mul_(SCALE).add_(SHIFT)
            self.after(row, stream, epoch, index)
            return
        k, box = only
        write_crop(row.numpy()[k : k + 1], coloured[k : k + 1] if len(coloured) == 3 else coloured, crop)
        row[k].mul_(float(SCALE[k])).add_(float(SHIFT[k]))
        if box is not None:
            row[k][box] = FILL[k]
        _copy_channel(row, k)

    def _only_channel(self, row: Tensor, stream: str, epoch: int, index: int) -> tuple[int, Box | None] | None:
        """The channel that :meth:`after` copies to all, and the rectangle it erases before; None if it copies none."""
        if stream not in ("visible_aug", "infrared") or (stream == "visible_aug" and self.exchange_first):
            return None
        rng = self._rng(epoch, index, stream, "erase")
        box = _erase_box(row.shape[1], row.shape[2], rng)
        if stream == "visible_aug":
            return rng.randint(0, 2), box
        return (1, box) if _adaptive_choice(rng) == "green" else None
