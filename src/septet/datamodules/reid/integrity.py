"""Integrity of a user's copy: counts, lists that name missing files, leaked identities, unreadable images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from septet.datamodules.reid.readers import LLCM, SYSUMM01, RegDB, Sample
from septet.datamodules.reid.synthetic import image_array

SYSU_COUNTS = {
    ("trainval", "visible"): 22_258, ("trainval", "infrared"): 11_909, ("train", "visible"): 20_284,
    ("train", "infrared"): 9_929, ("val", "visible"): 1_974, ("val", "infrared"): 1_980,
}  # fmt: skip
"""Images of the public split; 296 + 99 + 96 identities, 6,775 + 3,803 test images."""
SHOWN = 5


def verify_sysu(data: SYSUMM01) -> list[str]:
    """Problems of a SYSU-MM01 copy, one line each."""
    parts = {name: data.ids(name) for name in ("train", "val", "test")}
    problems = _overlaps(parts)
    for name, ids in parts.items():
        for modality, cameras in (("visible", data.visible), ("infrared", data.infrared)):
            empty = [i for i in ids if not any(data._folder(i, c) for c in cameras)]
            if empty:
                problems.append(f"{len(empty)} {name} identities have no {modality} image, such as {empty[:SHOWN]}")
    if (len(parts["train"]), len(parts["val"]), len(parts["test"])) == (296, 99, 96):
        for (part, modality), wanted in SYSU_COUNTS.items():
            found = len(data.train(modality, part))  # type: ignore[arg-type]
            problems += _count(f"{part} {modality} images", found, wanted)
        problems += _count("test visible images", len(data.pool()), 6_775)
        problems += _count("test infrared images", len(data.query()), 3_803)
    return problems + _misplaced(data.root, [f"cam{c}" for c in range(1, 7)])


def verify_regdb(root: str | Path) -> list[str]:
    """Problems of a RegDB copy over the trials whose lists exist."""
    problems = []
    for trial in range(1, 11):
        if not (Path(root) / f"idx/test_visible_{trial}.txt").is_file():
            problems.append(f"idx/*_{trial}.txt are missing")
            continue
        data = RegDB(root, trial)
        people: dict[str, set[str]] = {}
        for part, samples in (
            ("train", [*data.train("visible"), *data.train("infrared")]),
            ("test", [*data.query("visible_to_infrared"), *data.gallery("visible_to_infrared")]),
        ):
            problems += _missing(data.root, samples, f"trial {trial} {part}")
            problems += _gaps({s.pid for s in samples}, f"trial {trial} {part} labels")
            people[part] = {Path(s.path).parent.name for s in samples}
        shared = sorted(people["train"] & people["test"])
        if shared:
            problems.append(f"trial {trial}: identities {shared[:SHOWN]} are in training and test")
    return problems


def verify_llcm(root: str | Path) -> list[str]:
    """Problems of an LLCM copy."""
    data = LLCM(root)
    problems = []
    labels: dict[str, set[int]] = {}
    for modality in ("visible", "infrared"):
        samples = data.train(modality)  # type: ignore[arg-type]
        problems += _missing(data.root, samples, f"train {modality}")
        labels[modality] = {s.pid for s in samples}
        tested = {s.pid for s in data.query("visible_to_infrared" if modality == "visible" else "infrared_to_visible")}
        lacking = sorted(set(data.test_ids) - tested)
        if lacking:
            problems.append(f"test identities {lacking[:SHOWN]} have no {modality} image")
    alone = sorted(labels["visible"] ^ labels["infrared"])
    if alone:
        problems.append(f"training labels {alone[:SHOWN]} have one modality only")
    return problems + _gaps(labels["visible"], "training labels")


def llcm_warnings(root: str | Path) -> list[str]:
    """Cameras without a folder of test images: no error (no near infrared at some), but such queries are none."""
    lines = []
    for name in ("test_vis", "test_nir"):
        absent = [c for c in LLCM.cameras if not (Path(root) / f"{name}/cam{c}").is_dir()]
        if absent:
            lines.append(f"{name} has no folder of camera {', '.join(map(str, absent))}: no test images from there")
    return lines


def unreadable(root: Path, samples: Iterable[Sample], workers: int = 4) -> list[str]:
    """Files that cannot be decoded."""

    def check(sample: Sample) -> str | None:
        try:
            image_array(root / sample.path)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return [line for line in pool.map(check, samples) if line]


def every_sample(data: Any) -> list[Sample]:
    """All images a reader lists."""
    if isinstance(data, SYSUMM01):
        return [*data.train("visible"), *data.train("infrared"), *data.pool(), *data.query()]
    direction: Any = "infrared_to_visible"
    rest = data.pool(direction) if isinstance(data, LLCM) else data.gallery(direction)
    return [*data.train("visible"), *data.train("infrared"), *data.query(direction), *rest]


def _overlaps(parts: dict[str, list[int]]) -> list[str]:
    names = list(parts)
    lines = []
    for n, a in enumerate(names):
        for b in names[n + 1 :]:
            both = sorted(set(parts[a]) & set(parts[b]))
            if both:
                lines.append(f"{len(both)} identities are in {a} and {b}, such as {both[:SHOWN]}")
    return lines


def _count(what: str, found: int, wanted: int) -> list[str]:
    return [] if found == wanted else [f"{found:,} {what}, the public split has {wanted:,}"]


def _gaps(labels: set[int], what: str) -> list[str]:
    missing = sorted(set(range(max(labels, default=-1) + 1)) - labels)
    return [f"{what} have gaps, such as {missing[:SHOWN]}"] if missing else []


def _missing(root: Path, samples: Sequence[Sample], what: str) -> list[str]:
    absent = [s.path for s in samples if not (root / s.path).is_file()]
    return [f"{what}: {len(absent)} listed files are missing, such as {absent[:SHOWN]}"] if absent else []


def _misplaced(root: Path, folders: Sequence[str]) -> list[str]:
    """Files that are no images; readers pass over them, the published code does not."""
    strange = [p for f in folders for p in (root / f).glob("*/*") if p.name == "Thumbs.db" or p.name.startswith(".")]
    return [f"{len(strange)} hidden or Thumbs.db files lie among the images (ignored here)"] if strange else []
