"""What a set's lists must hold before anything is trained or ranked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from septet.datamodules.reid.evaluation import EvaluationSet
from septet.datamodules.reid.integrity import unreadable
from septet.datamodules.reid.readers import Sample

SHOWN = 5


def check_training(root: Path, sides: tuple[list[Sample], list[Sample]], drop_unpaired: bool) -> None:
    """Refuse training images that cannot make cross-modal batches.

    Args:
        root: of the data set.
        sides: visible and infrared samples.
        drop_unpaired: identities with one modality are left out later.

    Raises:
        ValueError: no images at all, or (without ``drop_unpaired``) identities of one modality, each with its own
            number and a folder of its images.
    """
    if not any(sides):
        raise ValueError(f"{root} holds no images of the training identities: check the lists and the folders")
    people: tuple[dict[int, Sample], ...] = tuple({s.pid: s for s in reversed(side)} for side in sides)
    alone = sorted(set(people[0]) ^ set(people[1]))
    if not alone or drop_unpaired:
        return
    shown = []
    for pid in alone[:SHOWN]:
        has = people[0].get(pid) or people[1][pid]
        lacks = "infrared" if pid in people[0] else "visible"
        shown.append(f"{pid} has no {lacks} image (only {root / PurePosixPath(has.path).parent} and the like)")
    raise ValueError(
        f"{len(alone)} identities have images of one modality only: {'; '.join(shown)}: complete the data or set "
        "drop_unpaired"
    )


def check_evaluation(root: Path, part: str, evaluation: EvaluationSet) -> None:
    """Refuse an empty side, and say how many queries the averages will leave out.

    Args:
        root: of the data set.
        part: ``val`` or ``test``.
        evaluation: its images.

    Raises:
        ValueError: no queries, or no gallery images.
    """
    for name, samples in (("query", evaluation.query), ("gallery", evaluation.pool)):
        if not samples:
            raise ValueError(
                f"{root} holds no {name} images of the {part} identities: check its lists and the folders they name"
            )
    lost = evaluation.left_out()
    if lost == len(evaluation.query):
        raise ValueError(
            f"{root}: none of the {lost:,} {part} queries has a match in the gallery ({evaluation.primary}): both "
            "sides must hold the same identities, with cameras that the protocol lets count"
        )
    if lost:
        rank_zero_info(
            f"{part}: {lost:,} of {len(evaluation.query):,} queries have no match in the gallery "
            f"({evaluation.primary}) and are left out of the averages"
        )


def check_readable(root: Path, samples: Sequence[Sample], workers: int) -> None:
    """Decode every image of a search before it starts.

    Raises:
        ValueError: an image that cannot be read, with its path.
    """
    bad = unreadable(root, samples, workers)
    if bad:
        more = f" ({len(bad) - 1:,} more cannot be read)" if len(bad) > 1 else ""
        raise ValueError(bad[0] + more)
