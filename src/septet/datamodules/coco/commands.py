"""``septet data verify|generate|fetch|prepare coco``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from septet.datamodules.coco.cases import verify_case
from septet.datamodules.coco.synthetic import generate_shapes
from septet.datamodules.coco.validation import read_coco, validate_coco

_LAYOUT = "root/annotations/instances_{train2017,val2017}.json, root/train2017/*.jpg, root/val2017/*.jpg"


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.config is not None:
        return verify_case(arguments.config, arguments.overrides, arguments.out)
    path = Path(arguments.json)
    if not path.is_file():
        sys.stderr.write(f"no annotation file {path}; COCO layout: {_LAYOUT}\n")
        return 1
    return _verify_file(path, arguments.classes, arguments.images)


def _verify_file(path: Path, classes: Sequence[str] | None, images: Path | str | None) -> int:
    """Print the findings of one annotation file; 1 if any is fatal."""
    data = read_coco(path)
    problems = validate_coco(data, classes=classes, image_dir=images)
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
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("-c", "--config", help="a case: all its annotation files, then its detectors' preflight")
        source.add_argument("--json", help="one annotation file")
        parser.add_argument("--images", help="image folder; files are checked when given")
        parser.add_argument("--classes", nargs="*", help="names that must be there")
        parser.add_argument("--out", help="with -c: file for the preflight report (JSON)")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="with -c: change the configuration")
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
