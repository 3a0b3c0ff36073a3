"""Give the teacher the batch in its own colour order and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Input statistics of a detector.

    Attributes:
        mean: of each channel, in the order after conversion, 0..255 scale.
        std: the same.
        bgr_to_rgb: whether BGR pixels are turned to RGB before normalising.
        pad_value: value of padding in the normalised batch.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr_to_rgb: bool = False
    pad_value: float = 0.0

    def __post_init__(self) -> None:
        """Turn sequences into tuples, so that equal statistics compare equal."""
        object.__setattr__(self, "mean", tuple(float(x) for x in self.mean))
        object.__setattr__(self, "std", tuple(float(x) for x in self.std))

    @classmethod
    def of(cls, preprocessor: Any) -> "Normalisation":
        """Statistics of an mmdet ``DetDataPreprocessor`` (mean 0, std 1 where it does not normalise)."""
        swap = bool(getattr(preprocessor, "_channel_conversion", False))
        pad = float(getattr(preprocessor, "pad_value", 0.0))
        if not getattr(preprocessor, "_enable_normalize", False):
            return cls((0.0,) * 3, (1.0,) * 3, swap, pad)
        mean, std = preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist()
        return cls(mean, std, swap, pad)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def convert_batch(
    images: Tensor, source: Normalisation, target: Normalisation, valid: Sequence[tuple[int, int]]
) -> Tensor:
    """Re-normalise a batch from one detector's statistics to another's.

    Args:
        images: ``(N, 3, H, W)`` normalised by ``source``.
        source: statistics of ``images``.
        target: statistics wanted.
        valid: (height, width) of the unpadded part of each image, at the top left.

    Returns:
        A new ``(N, 3, H, W)`` tensor whose padding is the target's; ``images`` itself when source equals target.

    Raises:
        ValueError: if ``valid`` has another length than the batch.
    """
    if len(valid) != images.shape[0]:
        raise ValueError(f"{len(valid)} valid sizes for a batch of {images.shape[0]}; give one (height, width) each")
    if source == target:
        return images
    pixels = images * _column(source.std, images) + _column(source.mean, images)
    if source.bgr_to_rgb != target.bgr_to_rgb:
        pixels = pixels.flip(1)
    out = (pixels - _column(target.mean, images)) / _column(target.std, images)
    for image, (height, width) in zip(out, valid, strict=True):
        image[:, height:] = target.pad_value
        image[:, :, width:] = target.pad_value
    return out
