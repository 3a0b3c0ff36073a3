"""Check a COCO annotation file before anything is trained on it."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""Lists of a COCO file and what each of their records must have."""
_NUMBERED = ("id", "image_id", "category_id")
_KINDS = {int: "a whole number", str: "a text", object: "anything"}
_ORIENTATION = 0x0112
"""EXIF tag; decoders turn the picture by it."""


@dataclass(frozen=True)
class CocoProblem:
    """One finding.

    Attributes:
        code: kind of problem, e.g. ``box-outside``.
        id: of the record concerned (a class name for ``class-missing``, the image for ``missing-file``).
        message: one sentence with the values.
        fatal: whether training must not start.
    """

    code: str
    id: int | str
    message: str
    fatal: bool = True


def _duplicates(data: Mapping[str, Any]) -> Iterator[CocoProblem]:
    for key, name in (("images", "image"), ("annotations", "annotation"), ("categories", "category")):
        counts = Counter(record["id"] for record in data.get(key, []))
        for identity, count in counts.items():
            if count > 1:
                yield CocoProblem(f"duplicate-{name}-id", identity, f"{name} id {identity} occurs {count} times")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(_is_number(v) for v in value)


def _size(record: Mapping[str, Any]) -> bool:
    """Whether an image's width and height are usable."""
    return all(_is_number(record[key]) and 0 < record[key] < math.inf for key in ("width", "height"))


def _images(data: Mapping[str, Any]) -> Iterator[CocoProblem]:
    counts = Counter({record["id"]: record["file_name"] for record in data.get("images", [])}.values())
    for name, count in counts.items():
        if count > 1:
            yield CocoProblem("duplicate-file-name", name, f"{count} images are the file {name!r}", False)
    for record in data.get("images", []):
        if not _size(record):
            size = f"width {record['width']!r} and height {record['height']!r}"
            message = f"image {record['id']} has {size}; give its positive size in pixels"
            yield CocoProblem("image-size", record["id"], message)


def _box(record: Mapping[str, Any], image: Mapping[str, Any] | None) -> Iterator[CocoProblem]:
    if not _is_box(record["bbox"]):
        message = (
            f"annotation {record['id']} (image {record['image_id']}): bbox {record['bbox']!r} is not "
            "[x, y, width, height] in pixels; write four numbers"
        )
        yield CocoProblem("box-form", record["id"], message)
        return
    x, y, width, height = (float(v) for v in record["bbox"])
    what = f"annotation {record['id']} (image {record['image_id']}): box {[x, y, width, height]}"
    if not all(math.isfinite(v) for v in (x, y, width, height)):
        yield CocoProblem("box-not-finite", record["id"], f"{what} is not finite")
    elif width <= 0 or height <= 0:
        yield CocoProblem("box-empty", record["id"], f"{what} has no area")
    elif image is not None and _size(image):
        over = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if over > 1:
            size = f"{image['width']}x{image['height']}"
            yield CocoProblem("box-outside", record["id"], f"{what} leaves its {size} image by {over:g} pixels")


def _annotations(data: Mapping[str, Any]) -> Iterator[CocoProblem]:
    images = {record["id"]: record for record in data.get("images", [])}
    categories = {record["id"] for record in data.get("categories", [])}
    for record in data.get("annotations", []):
        identity = record["id"]
        if record["image_id"] not in images:
            yield CocoProblem("unknown-image", identity, f"annotation {identity} names image {record['image_id']}")
        if record["category_id"] not in categories:
            message = f"annotation {identity} names category {record['category_id']}, which is not listed"
            yield CocoProblem("unknown-category", identity, message)
        yield from _box(record, images.get(record["image_id"]))
        if "area" not in record:
            yield CocoProblem("area-missing", identity, f"annotation {identity} has no area: box area is used", False)


def validate_coco(
    data: Mapping[str, Any], *, classes: Sequence[str] | None = None, image_dir: Path | str | None = None
) -> list[CocoProblem]:
    """Everything wrong with a COCO dictionary.

    Args:
        data: parsed annotation file.
        classes: names that must be among the categories.
        image_dir: folder in which every listed image must lie; not looked at when None.

    Returns:
        Problems; those with ``fatal`` must stop training.
    """
    problems = [*_duplicates(data), *_images(data), *_annotations(data)]
    names = [record["name"] for record in data.get("categories", [])]
    for name in classes or ():
        if name not in names:
            message = f"class {name!r} is not a category of the file, which has {names}"
            problems.append(CocoProblem("class-missing", name, message))
    for record in data.get("images", []) if image_dir is not None else []:
        path = Path(image_dir or "") / record["file_name"]
        if not path.is_file():
            problems.append(CocoProblem("missing-file", record["id"], f"image file {path} is missing"))
    return problems


def _header(path: Path) -> tuple[int, int] | str:
    """(width, height) as the picture is shown, from its header alone; a sentence where it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # a damaged header fails in the way of its format
        kind = "is empty" if path.stat().st_size == 0 else f"is no readable picture ({type(error).__name__})"
        return f"image file {path} {kind}; replace it, or take its image out of the file"
    return (height, width) if turned else (width, height)


def picture_problems(paths: Iterable[Path]) -> list[CocoProblem]:
    """Files that hold no picture; only headers are read, nothing is decoded.

    Args:
        paths: existing files.
    """
    headers = ((path, _header(path)) for path in paths)
    return [CocoProblem("unreadable-file", str(path), text) for path, text in headers if isinstance(text, str)]


def image_problems(data: Mapping[str, Any], image_dir: Path | str) -> list[CocoProblem]:
    """What the headers of the listed pictures say: unreadable files, other sizes than listed.

    Another size is a note, and fatal only where a box leaves the real picture. Absent files are
    :func:`validate_coco`'s business.

    Args:
        data: parsed annotation file without fatal problems.
        image_dir: folder of the pictures.
    """
    problems: list[CocoProblem] = []
    real: dict[int, tuple[int, int]] = {}
    for record in data["images"]:
        path = Path(image_dir) / record["file_name"]
        found = _header(path) if path.is_file() else (record["width"], record["height"])
        if isinstance(found, str):
            problems.append(CocoProblem("unreadable-file", record["id"], found))
        elif found != (record["width"], record["height"]):
            real[record["id"]] = found
            listed = f"{record['width']}x{record['height']}"
            message = f"image file {path} has {found[0]}x{found[1]} pixels, the annotation file says {listed}"
            problems.append(CocoProblem("size-differs", record["id"], message, False))
    for record in data["annotations"] if real else []:
        if record["image_id"] in real and _is_box(record["bbox"]):
            width, height = real[record["image_id"]]
            problems += _box(record, {"width": width, "height": height})
    return problems


def read_coco(path: Path) -> dict[str, Any]:
    """Parse an annotation file.

    Raises:
        ValueError: no JSON, or not of COCO's form; names the file and what is missing.
    """
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    problem = _form(data)
    if problem:
        raise ValueError(f"{path} is no COCO annotation file: {problem}")
    return data  # type: ignore[no-any-return]


def _form(data: Any) -> str | None:
    """What keeps a parsed file from being COCO's; None if nothing does."""
    if not isinstance(data, Mapping):
        return f"it holds a {type(data).__name__} instead of a mapping with {', '.join(_KEYS)}"
    for name, keys in _KEYS.items():
        if not isinstance(data.get(name), list):
            return f"it has no list {name!r}"
        for number, record in enumerate(data[name]):
            missing = [key for key in keys if not isinstance(record, Mapping) or key not in record]
            if missing:
                return f"record {number} of {name!r} has no {', '.join(missing)}"
            for key in keys:
                kind = int if key in _NUMBERED else str if key in ("file_name", "name") else object
                if not isinstance(record[key], kind):
                    return f"record {number} of {name!r} has {key} {record[key]!r}, which must be {_KINDS[kind]}"
    return None


def refuse_fatal(problems: Sequence[CocoProblem], source: str) -> None:
    """Raise ValueError naming the first fatal problems, if there are any."""
    fatal = [p for p in problems if p.fatal]
    if fatal:
        shown = "; ".join(f"[{p.code}] {p.message}" for p in fatal[:5])
        more = f" and {len(fatal) - 5} more" if len(fatal) > 5 else ""
        raise ValueError(f"{source} has {len(fatal)} fatal problems: {shown}{more}; repair the file first")
