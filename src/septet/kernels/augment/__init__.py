"""One image of an augmented stream: crop, flip, colour, normalisation, erasing and channel operations in one pass."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from septet.kernels.augment import native, reference
from septet.kernels.augment.plan import Plan

__all__ = ["Backend", "Plan", "native_available", "write_image"]

Backend = Literal["auto", "native", "reference"]
native_available = native.available


def write_image(
    out: NDArray[np.float32], image: NDArray[np.uint8], plan: Plan, *, backend: Backend = "auto"
) -> NDArray[np.float32]:
    """Write the augmented image into ``out``.

    Args:
        out: ``(3, H, W)`` float32, C-contiguous; overwritten whole.
        image: ``(H, W, 3)`` uint8.
        plan: what to do with it.
        backend: ``native`` (numba), ``reference`` (numpy) or ``auto``: native where numba can be imported. All give
            the same bits.

    Returns:
        ``out``.

    Raises:
        ValueError: unknown backend, shapes that do not fit. ImportError: ``native`` without numba.
    """
    if out.shape != (3, *image.shape[:2]) or image.shape[2] != 3:
        raise ValueError(f"image {image.shape} and out {out.shape}: expected (H, W, 3) and (3, H, W)")
    if backend not in ("auto", "native", "reference"):
        raise ValueError(f"unknown backend {backend!r}: choose 'auto', 'native' or 'reference'")
    fast = backend == "native" or (backend == "auto" and native.available())
    (native if fast else reference).write_image(out, image, plan)
    return out
