"""What is done to one image, as plain numbers."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Source = Literal["channels", "grey", "one", "sum"]
Box = tuple[int, int, int, int]
GREY = (19595, 38470, 7471)
"""ITU-R 601 luma in 1/65536, as image libraries compute it."""


class Plan(NamedTuple):
    """Augmentation of one image; every pixel becomes a look-up, so colour, normalisation and scaling are one step.

    Attributes:
        tables: ``(3, 256)`` float32, value of each byte in each output channel.
        fill: ``(3,)`` float32, value of the erased box in each output channel.
        source: which byte a channel looks up: its own (``channels``), the image's luma (``grey``) or that of
            ``channel`` (``one``); ``sum`` adds the three channels' looked-up values and writes them to all.
        channel: for ``one``.
        shift: crop's vertical and horizontal offset in pixels; what it uncovers is byte 0.
        flip: mirror left and right after the crop.
        box: erased rows and columns (top, bottom, left, right), half open; None = nothing.
    """

    tables: NDArray[np.float32]
    fill: NDArray[np.float32]
    source: Source = "channels"
    channel: int = 0
    shift: tuple[int, int] = (0, 0)
    flip: bool = False
    box: Box | None = None
