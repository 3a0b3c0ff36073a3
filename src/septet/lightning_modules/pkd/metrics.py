"""The twelve COCO box statistics, exact to COCOeval (computed by faster-coco-eval)."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_AREAS = ("", "s", "m", "l")


def _evaluator() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise ImportError("pkd needs the detection extra: pip install 'septet[detection]'") from error
    return COCO, COCOeval_faster


def read_ground_truth(source: Mapping[str, Any] | Path | str) -> dict[str, Any]:
    """A COCO dictionary whose annotations all have ``area`` (box area where missing) and ``iscrowd`` (0)."""
    data = dict(source) if isinstance(source, Mapping) else json.loads(Path(source).read_text())
    annotations = []
    for record in data.get("annotations", []):
        x = dict(record)
        x.setdefault("iscrowd", 0)
        x.setdefault("area", float(x["bbox"][2]) * float(x["bbox"][3]))
        annotations.append(x)
    return {"images": list(data["images"]), "annotations": annotations, "categories": list(data["categories"])}


def _check_ids(detections: Sequence[Mapping[str, Any]], images: set[int], categories: set[int]) -> None:
    for detection in detections:
        if detection["image_id"] not in images:
            raise ValueError(f"a detection names the unknown image id {detection['image_id']}")
        if detection["category_id"] not in categories:
            raise ValueError(f"a detection names the unknown category id {detection['category_id']}")


def _coco(data: dict[str, Any]) -> Any:
    return _evaluator()[0](copy.deepcopy(data))


def _detection_set(ground_truth: dict[str, Any], detections: Sequence[Mapping[str, Any]]) -> Any:
    """Detections as a COCO object, which may be empty."""
    annotations = []
    for number, detection in enumerate(detections, start=1):
        box = [float(v) for v in detection["bbox"]]
        row = {"id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": float(detection["score"])}
        annotations.append(row | {"image_id": int(detection["image_id"]), "category_id": int(detection["category_id"])})
    return _coco({**{k: ground_truth[k] for k in ("images", "categories")}, "annotations": annotations})


def _mean(values: np.ndarray[Any, Any]) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _summary(precision: Any, recall: Any, max_dets: Sequence[int]) -> dict[str, float]:
    """The table of COCOeval.summarize from its precision (T, R, K, A, M) and recall (T, K, A, M) arrays."""
    stats = {"AP": _mean(precision[..., 0, -1]), "AP50": _mean(precision[0, ..., 0, -1])}
    stats["AP75"] = _mean(precision[5, ..., 0, -1])
    stats |= {f"AP{name}": _mean(precision[..., area, -1]) for area, name in enumerate(_AREAS) if name}
    stats |= {f"AR{count}": _mean(recall[..., 0, i]) for i, count in enumerate(max_dets)}
    return stats | {f"AR{name}": _mean(recall[..., area, -1]) for area, name in enumerate(_AREAS) if name}


def coco_box_stats(
    ground_truth: Mapping[str, Any] | Path | str,
    detections: Sequence[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = (1, 10, 100),
) -> dict[str, float]:
    """COCO box statistics of detections; annotation ``area`` and ``iscrowd`` are respected.

    Args:
        ground_truth: COCO dictionary or JSON file.
        detections: COCO detections: image_id, category_id, bbox (xywh, pixels), score.
        max_dets: detections per image for the three recalls; AP uses the last.

    Returns:
        AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; -1 where undefined, as COCOeval.

    Raises:
        ValueError: an unknown image or category id in a detection.
    """
    data = read_ground_truth(ground_truth)
    _check_ids(detections, {x["id"] for x in data["images"]}, {x["id"] for x in data["categories"]})
    evaluator = _evaluator()[1](
        _coco(data), _detection_set(data, detections), iouType="bbox", print_function=lambda *a, **k: None
    )
    evaluator.params.maxDets = list(max_dets)
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])
    recall = np.asarray(evaluator.eval["recall"])
    return _summary(precision, recall, max_dets)


class CocoBoxAP(Metric):
    """COCO box statistics over the images seen, on any number of processes.

    Args:
        ground_truth: COCO dictionary or JSON file.

    An image seen twice (as padded distributed batches do) counts once: the first update wins.
    """

    full_state_update = False
    higher_is_better = True
    images: list[Tensor]
    counts: list[Tensor]
    rows: list[Tensor]

    def __init__(self, ground_truth: Mapping[str, Any] | Path | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ground_truth = read_ground_truth(ground_truth)
        self._images = {x["id"] for x in self.ground_truth["images"]}
        self._categories = {x["id"] for x in self.ground_truth["categories"]}
        for name in ("images", "counts", "rows"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, image_ids: Sequence[int], detections: Sequence[Mapping[str, Any]]) -> None:
        """Add images and the COCO detections found on them.

        Raises:
            ValueError: an image or category id that the ground truth or ``image_ids`` does not have.
        """
        ids = list(dict.fromkeys(int(i) for i in image_ids))
        for image in ids:
            if image not in self._images:
                raise ValueError(f"image id {image} is not in the ground truth")
        _check_ids(detections, set(ids), self._categories)
        grouped: dict[int, list[list[float]]] = {image: [] for image in ids}
        for d in detections:
            grouped[int(d["image_id"])].append([float(d["category_id"]), *map(float, d["bbox"]), float(d["score"])])
        rows = [row for image in ids for row in grouped[image]]
        self.images.append(torch.tensor(ids, dtype=torch.int64, device=self.device))
        counts = [len(grouped[image]) for image in ids]
        self.counts.append(torch.tensor(counts, dtype=torch.int64, device=self.device))
        self.rows.append(torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(-1, 6))

    def detections(self) -> tuple[list[int], list[dict[str, Any]]]:
        """Images seen, and their detections as COCO dictionaries (synchronised inside ``compute``)."""
        if len(self.images) == 0:  # a list before synchronisation, a tensor after
            return [], []
        images = dim_zero_cat(self.images).tolist()
        counts, rows = dim_zero_cat(self.counts).tolist(), dim_zero_cat(self.rows).tolist()
        seen: dict[int, list[list[float]]] = {}
        position = 0
        for image, count in zip(images, counts, strict=True):
            seen.setdefault(image, rows[position : position + count])
            position += count
        found = [
            {"image_id": image, "category_id": int(row[0]), "bbox": row[1:5], "score": row[5]}
            for image, kept in seen.items()
            for row in kept
        ]
        return list(seen), found

    def compute(self) -> dict[str, Tensor]:
        """The twelve statistics on the images seen, float64 scalars; -1 where undefined."""
        images, found = self.detections()
        wanted = set(images)
        truth = {
            "images": [x for x in self.ground_truth["images"] if x["id"] in wanted],
            "annotations": [x for x in self.ground_truth["annotations"] if x["image_id"] in wanted],
            "categories": self.ground_truth["categories"],
        }
        stats = coco_box_stats(truth, found)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in stats.items()}
