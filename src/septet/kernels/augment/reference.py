"""Readable form of the augmentation of one image, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from septet.kernels.augment.plan import GREY, Plan


def write_image(out: NDArray[np.float32], image: NDArray[np.uint8], plan: Plan) -> None:
    """Write ``(H, W, 3)`` uint8 into ``(3, H, W)`` float32 as the plan says."""
    cropped = _crop(image, plan.shift)
    cropped = cropped[:, ::-1] if plan.flip else cropped
    if plan.source == "sum":
        red, green, blue = (plan.tables[c][cropped[..., c]] for c in range(3))
        out[:] = (red + green) + blue
    else:
        for c in range(3):
            out[c] = plan.tables[c][_bytes(cropped, plan, c)]
    if plan.box is not None:
        top, bottom, left, right = plan.box
        fill = np.repeat((plan.fill[0] + plan.fill[1]) + plan.fill[2], 3) if plan.source == "sum" else plan.fill
        out[:, top:bottom, left:right] = fill[:, None, None]


def _crop(image: NDArray[np.uint8], shift: tuple[int, int]) -> NDArray[np.uint8]:
    """Zero padding and crop to the old size."""
    (dy, dx), (height, width) = shift, image.shape[:2]
    pad = max(abs(dy), abs(dx))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[pad + dy : pad + dy + height, pad + dx : pad + dx + width]


def _bytes(image: NDArray[np.uint8], plan: Plan, c: int) -> NDArray[np.uint8]:
    """The bytes ``(H, W)`` that output channel ``c`` looks up."""
    if plan.source == "grey":
        luma: NDArray[np.uint8] = ((image.astype(np.uint32) @ np.array(GREY, np.uint32) + 0x8000) >> 16).astype(
            np.uint8
        )
        return luma
    return image[..., plan.channel if plan.source == "one" else c]
