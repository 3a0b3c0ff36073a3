"""The same in one pass over the pixels, compiled by numba; numba is optional and imported on first use."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septet.kernels.augment.plan import Plan
from septet.kernels.compiled import numba_available

_SOURCES = {"channels": 0, "grey": 1, "one": 2, "sum": 3}


available = functools.cache(numba_available)


@functools.cache
def _loop() -> Any:
    if not available():
        raise ImportError("backend 'native' needs the reid extra: pip install 'septet[reid]'")
    from septet.kernels.augment.native_loops import write_image

    return write_image


def write_image(out: NDArray[np.float32], image: NDArray[np.uint8], plan: Plan) -> None:
    """Write ``(H, W, 3)`` uint8 into ``(3, H, W)`` float32 as the plan says.

    Raises:
        ImportError: numba is absent.
    """
    box = plan.box or (0, 0, 0, 0)
    _loop()(out, image, plan.tables, plan.fill, _SOURCES[plan.source], plan.channel, *plan.shift, plan.flip, *box)
