"""COCO statistics against pycocotools' golden values, and the metric over several processes."""

import json
from typing import Any

import numpy as np
import pytest
from tests.support.paths import golden, shared_data

from septet.lightning_modules.pkd.metrics import CocoBoxAP, coco_box_stats, read_ground_truth

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
TRUTH = {
    "coco_mini_val": "coco/coco_mini/annotations/instances_val2017.json",
    "bccd_val": "coco/bccd/annotations/instances_val.json",
    "empty_bccd_val": "coco/bccd/annotations/instances_val.json",
}
SQUARE: dict[str, Any] = {
    "images": [{"id": 1, "width": 64, "height": 64}, {"id": 2, "width": 64, "height": 64}],
    "categories": [{"id": 7, "name": "a"}],
    "annotations": [{"id": i, "image_id": i, "category_id": 7, "bbox": [4, 4, 40, 40]} for i in (1, 2)],
}


def found(image: int, score: float = 0.9, x: float = 4) -> dict[str, Any]:
    return {"image_id": image, "category_id": 7, "bbox": [x, 4, 40, 40], "score": score}


def detections(case: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    with np.load(golden("pkd", f"coco_eval_{case}.npz"), allow_pickle=False) as z:
        columns = (z["image_id"].tolist(), z["category_id"].tolist(), z["bbox"].tolist(), z["score"].tolist())
        keys = ("image_id", "category_id", "bbox", "score")
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)], z["stats"]


@pytest.mark.parametrize("case", sorted(TRUTH))
def test_golden(case: str) -> None:
    rows, expected = detections(case)
    stats = coco_box_stats(shared_data(TRUTH[case]), rows)
    assert list(stats) == NAMES
    np.testing.assert_allclose(list(stats.values()), expected, rtol=0, atol=1e-12)


def test_metric_in_batches_equals_the_function() -> None:
    rows, expected = detections("coco_mini_val")
    path = shared_data(TRUTH["coco_mini_val"])
    metric = CocoBoxAP(path)
    images = [x["id"] for x in json.loads(path.read_text())["images"]]
    for start in range(0, len(images), 7):
        batch = images[start : start + 7]
        metric.update(batch, [r for r in rows if r["image_id"] in batch])
    np.testing.assert_allclose([float(v) for v in metric.compute().values()], expected, rtol=0, atol=1e-12)


def test_only_images_seen_count_and_the_first_update_wins() -> None:
    metric = CocoBoxAP(SQUARE)
    metric.update([1], [found(1)])
    metric.update([1], [found(1, x=20.0)])
    assert metric.compute()["AP"] == pytest.approx(1.0)
    metric.update([2], [])
    assert metric.compute()["AR100"] == pytest.approx(0.5)
    metric.reset()
    metric.update([2], [found(2)])
    assert metric.compute()["AR100"] == pytest.approx(1.0)


def test_missing_area_and_crowd_are_filled() -> None:
    record = read_ground_truth(SQUARE)["annotations"][0]
    assert record["area"] == 1600
    assert record["iscrowd"] == 0
    assert "area" not in SQUARE["annotations"][0]


def test_undefined_entries_are_minus_one() -> None:
    stats = coco_box_stats(SQUARE, [found(1), found(2)])
    assert stats["APs"] == -1
    assert stats["APm"] == pytest.approx(1.0)


def test_other_max_dets_name_their_recalls() -> None:
    assert {"AR1", "AR5", "AR300"} <= set(coco_box_stats(SQUARE, [found(1)], max_dets=(1, 5, 300)))


def test_unknown_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown image id 9"):
        coco_box_stats(SQUARE, [found(9)])
    with pytest.raises(ValueError, match="unknown category id 3"):
        coco_box_stats(SQUARE, [found(1) | {"category_id": 3}])
    with pytest.raises(ValueError, match="image id 5"):
        CocoBoxAP(SQUARE).update([5], [])
    with pytest.raises(ValueError, match="unknown image id 2"):
        CocoBoxAP(SQUARE).update([1], [found(2)])
