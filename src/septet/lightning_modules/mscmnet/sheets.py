"""Ranked gallery sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

GREEN, RED, GREY = (34, 139, 34), (200, 40, 40), (130, 130, 130)
TILE, LINE, FRAME, GAP = (72, 144), 13, 4, 6


class Hit(NamedTuple):
    """A ranked gallery image: file, identity, camera, score, whether it matches, whether the protocol ignores it."""

    path: str
    pid: int
    cam: int
    score: float
    match: bool
    excluded: bool


def gallery_sheet(query: Hit, ranked: Sequence[Hit], *, path: str | Path | None = None, top: int = 10) -> Any:
    """A query and its nearest images: green frame = match, red = other, hatched = excluded by the protocol.

    Args:
        query: the query; its score and flags are not drawn.
        ranked: nearest first.
        path: where to save a PNG.
        top: images shown.

    Returns:
        ``PIL.Image``.

    Raises:
        ValueError: ``top`` below 1.
    """
    from PIL import Image, ImageDraw

    if top < 1:
        raise ValueError(f"top={top} is below 1")
    shown = [query, *ranked[:top]]
    step = TILE[0] + 2 * FRAME + GAP
    sheet = Image.new("RGB", (step * (top + 1) + GAP, TILE[1] + 2 * FRAME + 4 * LINE + 3 * GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for n, hit in enumerate(shown):
        left, top_edge = GAP + n * step, GAP
        colour = GREY if n == 0 or hit.excluded else GREEN if hit.match else RED
        box = (left, top_edge, left + TILE[0] + 2 * FRAME, top_edge + TILE[1] + 2 * FRAME)
        pen.rectangle(box, fill=colour)
        sheet.paste(_tile(hit.path), (left + FRAME, top_edge + FRAME))
        if n and hit.excluded:
            _hatch(pen, box)
        lines = ["query" if n == 0 else f"{n}: {hit.score:.3f}", f"id {hit.pid}", f"cam {hit.cam}"]
        for k, text in enumerate(lines):
            pen.text((left, box[3] + 2 + k * LINE), text, fill="black")
    _legend(pen, GAP, sheet.height - LINE - GAP)
    if path is not None:
        sheet.save(path)
    return sheet


def _legend(pen: Any, left: int, top: int) -> None:
    """What the frames' colours mean, in one row; as many entries as the sheet is wide for."""
    entries = ((GREEN, "match"), (RED, "other"), (GREY, "query; hatched: ignored by the protocol"))
    width = pen.im.size[0]
    for colour, text in entries:
        if left + LINE + GAP + pen.textlength(text) > width:
            break
        pen.rectangle((left, top + 1, left + LINE - 4, top + LINE - 3), fill=colour)
        pen.text((left + LINE, top), text, fill="black")
        left += LINE + int(pen.textlength(text)) + 3 * GAP


def _tile(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB").resize(TILE)


def _hatch(pen: Any, box: tuple[int, int, int, int]) -> None:
    """Diagonal lines inside a box."""
    left, top, right, bottom = box
    for offset in range(0, right - left + bottom - top, 12):
        a = (min(left + offset, right), top + max(0, offset - (right - left)))
        b = (left + max(0, offset - (bottom - top)), min(top + offset, bottom))
        pen.line([a, b], fill=GREY, width=1)
