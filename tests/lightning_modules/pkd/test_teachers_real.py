"""The two shipped teachers: features against golden values, and AP through the provided operators."""

import numpy as np
import pytest
import torch
from tests.support.paths import golden, shared_data

from septet.datamodules.coco import COCODetection
from septet.lightning_modules.pkd.detectors import to_coco
from septet.lightning_modules.pkd.metrics import CocoBoxAP
from septet.lightning_modules.pkd.preprocess import Normalisation
from septet.lightning_modules.pkd.specs import TeacherSpec
from septet.lightning_modules.pkd.teachers import Teacher

pytest.importorskip("mmdet", reason="SKIPPED FOR LACK OF the detection extra")

NAMES = ["retinanet_r18w32", "faster-rcnn_r18w32"]


def shipped(name: str) -> Teacher:
    folder = "coco/teachers"
    return Teacher(TeacherSpec(str(shared_data(f"{folder}/{name}.py")), str(shared_data(f"{folder}/{name}.pth"))))


def bccd(limit: int | None) -> COCODetection:
    data = COCODetection(
        str(shared_data("coco/bccd")), "annotations/instances_train.json", "annotations/instances_val.json",
        train_images="images", val_images="images", image_scale=(160, 120), batch_size=8, limit_images=limit,
    )  # fmt: skip
    data.setup("validate")
    return data


def average_precision(name: str, limit: int | None) -> float:
    data, teacher = bccd(limit), shipped(name)
    metric = CocoBoxAP(data.ground_truth("val"))
    for batch in data.val_dataloader():
        samples = teacher.predict(batch)
        metric.update([int(s.img_id) for s in samples], to_coco(samples, data.category_ids))
    return float(metric.compute()["AP"])


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_golden(name: str) -> None:
    teacher = shipped(name)
    assert teacher.report is not None
    assert teacher.report.missing + teacher.report.unexpected + teacher.report.mismatched == []
    with np.load(golden("pkd", "teacher_features.npz"), allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["input"])
        levels = teacher.features(images, Normalisation.of(teacher.model.data_preprocessor), [(64, 96)])
        for i, level in enumerate(levels):
            expected = torch.from_numpy(arrays[f"{name}_P{i}"])
            assert (level - expected).norm() <= 1e-4 * expected.norm()


def test_ap_of_the_two_stage_teacher_on_a_few_images() -> None:
    assert average_precision("faster-rcnn_r18w32", 16) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [(NAMES[0], 0.370), (NAMES[1], 0.502)])
def test_ap_end_to_end(name: str, expected: float) -> None:
    assert average_precision(name, None) == pytest.approx(expected, abs=0.005)
