"""COCO annotations as an mmdet data set: records and filters of ``CocoDataset``, augmentation exactly repeatable."""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def default_pipeline(image_scale: tuple[int, int], flip: float | None) -> list[dict[str, Any]]:
    """Transforms (mmdet) of the plain recipe: load, resize keeping the aspect ratio, flip, pack.

    Args:
        image_scale: (long side, short side) limits in pixels.
        flip: probability of a horizontal flip; None for pictures without annotations.
    """
    steps: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}]
    if flip is not None:
        steps.append({"type": "LoadAnnotations", "with_bbox": True})
    steps.append({"type": "Resize", "scale": tuple(image_scale), "keep_ratio": True})
    if flip:
        steps.append({"type": "RandomFlip", "prob": flip})
    return [*steps, {"type": "PackDetInputs", "meta_keys": META_KEYS}]


def _instance(record: Mapping[str, Any], image: Mapping[str, Any], labels: Mapping[int, int]) -> dict[str, Any] | None:
    """One training box under mmdet's rules, None where it is skipped."""
    x, y, w, h = record["bbox"]
    wide = max(0, min(x + w, image["width"]) - max(x, 0))
    high = max(0, min(y + h, image["height"]) - max(y, 0))
    area = record.get("area", w * h)
    if record.get("ignore") or wide * high == 0 or area <= 0 or w < 1 or h < 1 or record["category_id"] not in labels:
        return None
    crowd = int(bool(record.get("iscrowd", 0)))
    return {"bbox": [x, y, x + w, y + h], "bbox_label": labels[record["category_id"]], "ignore_flag": crowd}


def coco_records(data: Mapping[str, Any], folder: Path, labels: Mapping[int, int]) -> list[dict[str, Any]]:
    """One mmdet record for each image, ordered by image id.

    Args:
        data: COCO dictionary.
        folder: of the image files.
        labels: label of each category id.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for record in data.get("annotations", []):
        by_image.setdefault(record["image_id"], []).append(record)
    records = []
    for image in sorted(data["images"], key=lambda x: x["id"]):
        instances = [_instance(a, image, labels) for a in by_image.get(image["id"], [])]
        records.append({
            "img_id": image["id"],
            "img_path": str(folder / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "annotated": any(a["category_id"] in labels for a in by_image.get(image["id"], [])),
            "instances": [x for x in instances if x is not None],
        })  # fmt: skip
    return records


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Run with python's, numpy's and torch's generators seeded, then put them back."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    draw = np.random.default_rng(numbers).integers(2**32, size=3)
    random.seed(int(draw[0]))
    np.random.seed(int(draw[1]))  # noqa: NPY002
    torch.manual_seed(int(draw[2]))
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


class DetectionDataset(Dataset[dict[str, Any]]):
    """Records through an mmdet pipeline; every random choice is a function of (seed, epoch, index).

    Args:
        records: as :func:`coco_records` gives them.
        pipeline: mmdet transform configurations.
        seed: of the augmentation.
    """

    def __init__(self, records: Sequence[dict[str, Any]], pipeline: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        self.records, self.pipeline, self.seed = list(records), [dict(step) for step in pipeline], seed
        self._compose: Any = None

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compose": None}

    def _transforms(self) -> Any:
        """The pipeline, built once in each process (a spawned worker must register mmdet first)."""
        if self._compose is None:
            from septet.kernels.detection import import_mmdet

            import_mmdet()
            from mmengine.dataset import Compose

            self._compose = Compose([dict(step) for step in self.pipeline])
        return self._compose

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Packed sample of an index or of (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = {k: v for k, v in self.records[index].items() if k != "annotated"}
        record["instances"] = [dict(x) for x in record["instances"]]
        with seeded(self.seed, epoch, index):
            sample: dict[str, Any] | None = self._transforms()(record)
        if sample is None:
            raise ValueError(f"the pipeline dropped {record['img_path']}; use transforms that always return a sample")
        return sample


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Lists of inputs ``(3, H, W)`` uint8 BGR and of ``DetDataSample``, as mmengine's pseudo_collate."""
    return {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
