"""The numba loop behind :mod:`septet.kernels.augment.native`; imported only where numba is installed."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, call-overload"
# ruff: noqa: ANN001, ANN201, ANN202, D103

from __future__ import annotations

from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "boundscheck": False}
CHANNELS, GREY, ONE = 0, 1, 2


@njit(inline="always", **_OPTIONS)
def _fill(out, y, start, stop, a, b, c):
    for x in range(start, stop):
        out[0, y, x] = a
        out[1, y, x] = b
        out[2, y, x] = c


@njit(inline="always", **_OPTIONS)
def _row(out, y, start, stop, line, first, step, tables, source, channel):
    red, green, blue = tables[0], tables[1], tables[2]
    at = first
    if source == CHANNELS:
        for x in range(start, stop):
            out[0, y, x] = red[line[at, 0]]
            out[1, y, x] = green[line[at, 1]]
            out[2, y, x] = blue[line[at, 2]]
            at += step
    elif source == GREY:
        for x in range(start, stop):
            value = (line[at, 0] * 19595 + line[at, 1] * 38470 + line[at, 2] * 7471 + 0x8000) >> 16
            out[0, y, x] = red[value]
            out[1, y, x] = green[value]
            out[2, y, x] = blue[value]
            at += step
    elif source == ONE:
        for x in range(start, stop):
            value = line[at, channel]
            out[0, y, x] = red[value]
            out[1, y, x] = green[value]
            out[2, y, x] = blue[value]
            at += step
    else:
        for x in range(start, stop):
            luma = (red[line[at, 0]] + green[line[at, 1]]) + blue[line[at, 2]]
            out[0, y, x] = luma
            out[1, y, x] = luma
            out[2, y, x] = luma
            at += step


@njit(**_OPTIONS)
def write_image(out, image, tables, fill, source, channel, dy, dx, flip, top, bottom, left, right):
    height, width = image.shape[0], image.shape[1]
    pad0, pad1, pad2 = tables[0, 0], tables[1, 0], tables[2, 0]
    fill0, fill1, fill2 = fill[0], fill[1], fill[2]
    if source > ONE:
        pad0 = pad1 = pad2 = (pad0 + pad1) + pad2
        fill0 = fill1 = fill2 = (fill0 + fill1) + fill2
    start, stop = max(-dx, 0), width - max(dx, 0)
    first, step = start + dx, 1
    if flip:
        first, step = stop - 1 + dx, -1
        start, stop = width - stop, width - start
    for y in range(height):
        if y + dy < 0 or y + dy >= height:
            _fill(out, y, 0, width, pad0, pad1, pad2)
        else:
            _fill(out, y, 0, start, pad0, pad1, pad2)
            _row(out, y, start, stop, image[y + dy], first, step, tables, source, channel)
            _fill(out, y, stop, width, pad0, pad1, pad2)
        if top <= y < bottom:
            _fill(out, y, left, right, fill0, fill1, fill2)
