"""``septet data verify|generate|fetch|prepare coco``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from septet.datamodules.coco.cases import verify_case
from septet.datamodules.coco.dataset import coco_records
from septet.datamodules.coco.synthetic import generate_shapes
from septet.datamodules.coco.validation import CocoProblem, image_problems, read_coco, validate_coco

_SHOWN = 50
_LAYOUT = "root/annotations/instances_{train2017,val2017}.json, root/train2017/*.jpg, root/val2017/*.jpg"


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.config is not None:
        return verify_case(arguments.config, arguments.overrides, arguments.out)
    path = Path(arguments.json)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}; COCO layout: {_LAYOUT}")
    if arguments.images is not None and not Path(arguments.images).is_dir():
        raise FileNotFoundError(f"no image folder {arguments.images}")
    return _verify_file(path, arguments.classes, arguments.images)


def _verify_file(path: Path, classes: Sequence[str] | None, images: Path | str | None) -> int:
    """Print the findings of one annotation file; 1 if any is fatal."""
    data = read_coco(path)
    problems = validate_coco(data, classes=classes, image_dir=images)
    if not any(p.fatal for p in problems):
        problems += emptiness(data, classes)
    if images is not None and not any(p.code in ("image-size", "duplicate-image-id") for p in problems):
        problems += image_problems(data, images)
    problems.sort(key=lambda p: not p.fatal)
    for problem in problems[:_SHOWN]:
        sys.stdout.write(f"{'ERROR' if problem.fatal else 'note'} {problem.code} {problem.message}\n")
    if len(problems) > _SHOWN:
        sys.stdout.write(f"... and {len(problems) - _SHOWN} more\n")
    fatal = sum(p.fatal for p in problems)
    counts = ", ".join(f"{len(data.get(k, []))} {k}" for k in ("images", "annotations", "categories"))
    sys.stdout.write(f"{path}: {counts}; {fatal} fatal problems, {len(problems) - fatal} notes\n")
    return 1 if fatal else 0


def emptiness(data: Mapping[str, Any], classes: Sequence[str] | None) -> list[CocoProblem]:
    """What ``fit`` refuses beyond single records: no image, no box of the classes; no box that trains is a note.

    Args:
        data: annotation file without fatal problems.
        classes: names in use; None for all.
    """
    if not data["images"]:
        return [CocoProblem("no-images", "", "the list of images is empty: there is nothing to train on or to score")]
    names = list(classes or [record["name"] for record in data["categories"]])
    labels = {record["id"]: names.index(record["name"]) for record in data["categories"] if record["name"] in names}
    if not any(record["category_id"] in labels for record in data["annotations"]):
        message = f"no box of {names}: fit refuses the file for training and scoring; septet predict needs no boxes"
        return [CocoProblem("no-boxes", "", message)]
    if not any(x["instances"] for x in coco_records(data, Path(), labels)):
        message = "every box is ignored or smaller than a pixel: fit refuses the file for training"
        return [CocoProblem("no-training-box", "", message, False)]
    return []


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
        FileNotFoundError: no such file or folder (the command line's exit code 2).
        ValueError: an unknown action, a file that is no COCO file (exit code 2).
    """
    codes = "exit codes: 0 good, 1 problems found, 2 wrong input" if action == "verify" else None
    parser = argparse.ArgumentParser(prog=f"septet data {action} coco", epilog=codes)
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
