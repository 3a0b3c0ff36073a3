"""``septet data verify|generate|fetch|prepare coco``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from septet.datamodules.coco.synthetic import generate_shapes
from septet.datamodules.coco.validation import validate_coco

_LAYOUT = "root/annotations/instances_{train2017,val2017}.json, root/train2017/*.jpg, root/val2017/*.jpg"


def _verify(arguments: argparse.Namespace) -> int:
    path = Path(arguments.json)
    if not path.is_file():
        sys.stderr.write(f"no annotation file {path}; COCO layout: {_LAYOUT}\n")
        return 1
    data = json.loads(path.read_text())
    problems = validate_coco(data, classes=arguments.classes, image_dir=arguments.images)
    for problem in problems[:50]:
        sys.stdout.write(f"{'ERROR' if problem.fatal else 'note'} {problem.code} {problem.message}\n")
    fatal = sum(p.fatal for p in problems)
    counts = ", ".join(f"{len(data.get(k, []))} {k}" for k in ("images", "annotations", "categories"))
    sys.stdout.write(f"{path}: {counts}; {fatal} fatal problems, {len(problems) - fatal} notes\n")
    return 1 if fatal else 0


def _generate(arguments: argparse.Namespace) -> int:
    path = generate_shapes(
        arguments.folder, images=arguments.num_images, classes=arguments.num_classes, seed=arguments.seed
    )
    sys.stdout.write(f"{path}\n")
    return 0


def _manual(arguments: argparse.Namespace) -> int:
    sys.stdout.write(
        "septet does not download COCO. Get the 2017 images and annotations from cocodataset.org and lay them out as "
        f"{_LAYOUT}; then `septet data verify coco --json FILE --images FOLDER`.\n"
    )
    return 0


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action.

    Args:
        action: ``verify``, ``generate``, ``fetch`` or ``prepare``.
        argv: its arguments.

    Returns:
        Exit code: 0 good, 1 problems found.

    Raises:
        ValueError: an unknown action.
    """
    parser = argparse.ArgumentParser(prog=f"septet data {action} coco")
    if action == "verify":
        parser.add_argument("--json", required=True, help="annotation file")
        parser.add_argument("--images", help="image folder; files are checked when given")
        parser.add_argument("--classes", nargs="*", help="names that must be there")
        return _verify(parser.parse_args(argv))
    if action == "generate":
        parser.add_argument("--folder", required=True)
        parser.add_argument("--num-images", type=int, default=32)
        parser.add_argument("--num-classes", type=int, default=3)
        parser.add_argument("--seed", type=int, default=0)
        return _generate(parser.parse_args(argv))
    if action in ("fetch", "prepare"):
        return _manual(parser.parse_args(argv))
    raise ValueError(f"unknown action {action!r}; choose verify, generate, fetch or prepare")
