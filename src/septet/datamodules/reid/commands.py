"""``septet data verify|fetch|prepare|generate reid``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from septet.datamodules.reid.cache import cached_images
from septet.datamodules.reid.integrity import every_sample, llcm_warnings, unreadable, verify_llcm, verify_regdb
from septet.datamodules.reid.readers import LLCM, SYSUMM01, RegDB
from septet.datamodules.reid.synthetic import LAYOUTS, PRESETS, write_synthetic

SOURCES = {
    "sysu": "SYSU-MM01: by a signed agreement with Sun Yat-sen University (Wu et al., ICCV 2017)",
    "regdb": "RegDB: by a signed agreement with Dongguk University (Nguyen et al., Sensors 2017)",
    "llcm": "LLCM: by a signed agreement with Xiamen University (Zhang and Wang, CVPR 2023)",
}


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action; errors of the user are ValueError, FileNotFoundError or FileExistsError."""
    actions: dict[str, Callable[[argparse.ArgumentParser, Sequence[str]], int]] = {
        "verify": _verify,
        "fetch": _fetch,
        "prepare": _prepare,
        "generate": _generate,
    }
    if action not in actions:
        raise ValueError(f"unknown action {action!r}: choose one of {', '.join(actions)}")
    return actions[action](argparse.ArgumentParser(prog=f"septet data {action} reid"), argv)


def _reader(options: argparse.Namespace) -> Any:
    if options.dataset == "sysu":
        return SYSUMM01(options.root)
    return RegDB(options.root, options.trial) if options.dataset == "regdb" else LLCM(options.root)


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Counts, lists and, with --images, every file; 1 if there are problems."""
    parser.add_argument("root", type=Path)
    parser.add_argument("--dataset", choices=LAYOUTS, default="sysu")
    parser.add_argument("--trial", type=int, default=1, help="of RegDB, for --images")
    parser.add_argument("--images", action="store_true", help="decode every image as well")
    options = parser.parse_args(argv)
    data = _reader(options)
    checks: dict[str, Callable[[], list[str]]] = {
        "sysu": lambda: data.verify(),
        "regdb": lambda: verify_regdb(options.root),
        "llcm": lambda: verify_llcm(options.root),
    }
    problems = checks[options.dataset]()
    samples = every_sample(data)
    opened = "none opened"
    if options.images:
        bad = unreadable(Path(options.root), samples)
        problems += bad
        opened = f"{len(samples) - len(bad):,} of {len(samples):,} decoded" if bad else "all decoded"
    counts = {m: sum(s.modality == m for s in samples) for m in ("visible", "infrared")}
    print(
        f"{options.dataset}: {counts['visible']:,} visible and {counts['infrared']:,} infrared images listed, "
        f"{len(data.test_ids)} test identities, {opened}"
    )
    for line in llcm_warnings(options.root) if options.dataset == "llcm" else ():
        print(f"  warning: {line}")
    for line in problems:
        print(f"  problem: {line}")
    print(f"  {len(problems)} problems")
    return int(bool(problems))


def _fetch(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Say where the sets come from: none may be redistributed."""
    parser.add_argument("name", choices=LAYOUTS)
    options = parser.parse_args(argv)
    print(
        f"{SOURCES[options.name]}. It may not be redistributed: ask the authors, then point data.init_args.root at it."
    )
    print(f"  check a copy: septet data verify reid ROOT --dataset {options.name}")
    return 0


def _prepare(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Build the cache of resized training images."""
    parser.add_argument("root", type=Path)
    parser.add_argument("--dataset", choices=LAYOUTS, default="sysu")
    parser.add_argument("--trial", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--part", default="trainval", choices=("train", "trainval"), help="of SYSU-MM01")
    parser.add_argument("--cache", type=Path, help="default ROOT/.septet")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args(argv)
    if any(side % 16 or side < 16 for side in options.size):
        raise ValueError(f"--size {options.size[0]} {options.size[1]}: both sides must be multiples of 16, at least 16")
    if options.workers < 1:
        raise ValueError(f"--workers {options.workers} is below 1")
    data = _reader(options)
    for modality in ("visible", "infrared"):
        samples = data.train(modality, options.part) if options.dataset == "sysu" else data.train(modality)
        folder, size = options.cache or options.root / ".septet", (options.size[0], options.size[1])
        table = cached_images(options.root, samples, size, folder, f"train_{modality}", workers=options.workers)
        print(f"{modality}: {len(table):,} images, {table.nbytes / 1e9:.2f} GB in {folder}")
    return 0


def _generate(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Write a synthetic set in a native layout."""
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--layout", choices=LAYOUTS, default="sysu")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=float, default=1.0)
    options = parser.parse_args(argv)
    extra = {"preset": options.preset, "seed": options.seed, "difficulty": options.difficulty}
    try:
        write_synthetic(options.out, options.layout, **extra)
    except FileExistsError as error:
        raise ValueError(f"--out {error}") from error
    print(f"{options.out}: {sum(1 for p in options.out.rglob('*') if p.is_file()):,} files")
    return 0
