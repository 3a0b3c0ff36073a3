"""Preflight and the refusals before training, each by the one thing that is wrong."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from septet.lightning_modules.pkd import DetectionDistiller, LossSpec, TeacherSpec, preflight
from septet.lightning_modules.pkd.detectors import build_detector, model_config
from septet.lightning_modules.pkd.preflight import LevelReport
from septet.lightning_modules.task import rng_state

Args = dict[str, Any]
Make = Callable[..., Any]


@pytest.fixture
def with_weights(module_args: Args, tmp_path: Path) -> Args:
    """The smoke pair with a checkpoint for its (random) teacher."""
    config = module_args["teachers"][0]["config"]
    torch.manual_seed(1)
    model = build_detector(config, pretrained=False, initialise=True)
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    teacher = TeacherSpec(config, str(tmp_path / "teacher.pth"))
    return module_args | {"preflight": True, "teachers": [teacher]}


def test_report_is_printed_and_stored(with_weights: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    module = DetectionDistiller(**with_weights)
    fit(module, make_data(), limit_train_batches=1, limit_val_batches=0)
    report = json.loads((tmp_path / "media/preflight.json").read_text())
    teacher = report["teachers"][0]
    assert teacher["load_counts"]["missing"] == teacher["load_counts"]["mismatched"] == 0
    assert teacher["strides"] == report["student_strides"]["neck"] == [8, 16, 32, 64, 128]
    assert teacher["channels"] == [32] * 5
    levels = report["levels"]["0:pkd"]
    assert len(levels) == 4
    assert all(x["loss"] > 0 and x["gradient_ratio"] > 0 and -1 <= x["mean_r"] <= 1 for x in levels)


def test_it_changes_nothing(with_weights: Args, make_data: Make) -> None:
    module, data = DetectionDistiller(**with_weights), make_data()
    data.setup("fit")
    module.configure_model()
    before, state = copy.deepcopy(module.student.state_dict()), rng_state()
    preflight(module, data, images=3)
    after = module.student.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(state["torch"], rng_state()["torch"])
    assert all(p.grad is None for p in module.student.parameters())


def run(args: Args, data: Any, fit: Make) -> None:
    fit(DetectionDistiller(**args), data, limit_train_batches=1, limit_val_batches=0)


def test_teacher_below_the_floor(with_weights: Args, make_data: Make, fit: Make) -> None:
    with pytest.raises(ValueError, match=r"below min_teacher_ap 0\.9"):
        run(with_weights | {"min_teacher_ap": 0.9}, make_data(), fit)


def test_other_padding(with_weights: Args, make_data: Make, fit: Make) -> None:
    student = copy.deepcopy(with_weights["student"])
    student["data_preprocessor"]["pad_size_divisor"] = 16
    with pytest.raises(ValueError, match="set pad_size_divisor=32"):
        run(with_weights | {"student": student}, make_data(), fit)


def test_wrong_checkpoint(with_weights: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    other = build_detector(with_weights["student"], pretrained=False, initialise=True)
    torch.save(other.state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(ValueError, match="does not fit the model"):
        run(with_weights, make_data(), fit)


def test_random_teacher_needs_preflight_off(module_args: Args) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        DetectionDistiller(**module_args | {"preflight": True})


def test_unequal_channels(module_args: Args, make_data: Make, fit: Make) -> None:
    student = copy.deepcopy(module_args["student"])
    student["neck"]["out_channels"] = student["bbox_head"]["in_channels"] = 16
    with pytest.raises(ValueError, match="adapter"):
        run(module_args | {"student": student}, make_data(), fit)
    spec = LossSpec("pkd", 1.0, options={"adapter": "conv1x1"})
    run(module_args | {"student": student, "losses": [spec]}, make_data(), fit)


def test_five_levels_against_four(module_args: Args, make_data: Make, fit: Make) -> None:
    teacher = copy.deepcopy(module_args["teachers"][0])
    teacher["config"]["neck"]["num_outs"] = 4
    with pytest.raises(ValueError, match="the student has 5, the teacher 4"):
        run(module_args | {"teachers": [teacher], "losses": [LossSpec("pkd", levels=5)]}, make_data(), fit)
    run(module_args | {"teachers": [teacher]}, make_data(), fit)


def test_category_mismatch(module_args: Args, make_data: Make, fit: Make) -> None:
    module_args["student"]["bbox_head"]["num_classes"] = 4
    with pytest.raises(ValueError, match="4 classes, the data 3"):
        run(module_args, make_data(), fit)


CASES: list[tuple[str, Args]] = [
    ("no module 'body'", {"losses": [LossSpec(student_tap="body")]}),
    ("unknown options", {"losses": [LossSpec(options={"tau": 1.0})]}),
    ("unknown adapter", {"losses": [LossSpec("mgd", options={"adapter": "conv1x1"})]}),
    ("is tapped at", {"losses": [LossSpec(), LossSpec(teacher_tap="backbone")]}),
    ("no optimiser 'Adamant'", {"optimizer": {"type": "Adamant", "lr": 0.1}}),
    ("unknown schedule", {"schedule": {"type": "cosine"}}),
]


@pytest.mark.parametrize(("message", "change"), CASES, ids=[c[0] for c in CASES])
def test_bad_configurations(message: str, change: Args, module_args: Args, make_data: Make, fit: Make) -> None:
    with pytest.raises(ValueError, match=message):
        run(module_args | change, make_data(), fit)


def test_names_of_configurations(smoke: Args) -> None:
    assert model_config("retinanet/retinanet_r50_fpn_1x_coco")["type"] == "RetinaNet"
    assert model_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco")["neck"]["out_channels"] == 256
    with pytest.raises(ValueError, match=r"did you mean retinanet/retinanet_r50_fpn_1x_coco"):
        model_config("retinanet/retinanet_r50_fpn_1x_cocoo")
    with pytest.raises(ValueError, match="no detector"):
        model_config({"backbone": {}})


def test_verify_without_a_trainer(with_weights: Args, make_data: Make) -> None:
    student = copy.deepcopy(with_weights["student"])
    student["data_preprocessor"]["mean"] = [100.0, 110.0, 120.0]
    module = DetectionDistiller(**with_weights | {"student": student, "preflight_images": 2})
    report = module.verify(make_data())
    assert report.errors == []
    assert report.images == 2
    assert report.detection_loss is not None
    assert report.detection_loss > 0
    share = report.gradient_shares["0:pkd"]
    assert share is not None
    assert share > 0
    text = str(report)
    assert "student: initialised, no checkpoint" in text
    assert "of its own (batches are converted)" in text
    assert "levels (0, 0) of strides (8, 8)" in text


def test_student_weights_are_reported(with_weights: Args, make_data: Make, tmp_path: Path) -> None:
    state = build_detector(with_weights["student"], pretrained=False, initialise=True).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("bbox_head")} | {"x": torch.zeros(1)}
    torch.save(state, tmp_path / "student.pth")
    module = DetectionDistiller(**with_weights | {"student_checkpoint": str(tmp_path / "student.pth")})
    report = module.verify(make_data())
    assert report.student_load is not None
    assert report.student_load["missing"] > 0
    assert report.student_load["unexpected"] == 1
    assert "1 unexpected (x)" in str(report)


def test_mean_r_and_strides_of_index_pairs_across_strides(with_weights: Args, make_data: Make) -> None:
    spec = LossSpec("pkd", 1.0, pairs=[[0, 1], [1, 2]])
    report = DetectionDistiller(**with_weights | {"losses": [spec]}).verify(make_data())
    levels = report.levels["0:pkd"]
    assert [x.strides for x in levels] == [(8, 16), (16, 32)]
    assert all(x.mean_r is not None and abs(x.mean_r) <= 1 for x in levels)


def test_teacher_of_other_classes(with_weights: Args, make_data: Make, tmp_path: Path) -> None:
    config = copy.deepcopy(with_weights["teachers"][0].config)
    config["bbox_head"]["num_classes"] = 5
    state = build_detector(config, pretrained=False, initialise=True).state_dict()
    torch.save(
        {"meta": {"dataset_meta": {"classes": ("a", "b", "c", "d", "e")}}, "state_dict": state}, tmp_path / "5.pth"
    )
    args = with_weights | {"teachers": [TeacherSpec(config, str(tmp_path / "5.pth"))]}
    report = DetectionDistiller(**args).verify(make_data())
    assert report.errors == []
    assert any("has 5 classes, the data 3" in text for text in report.warnings)
    assert any("was trained on the classes ['a', 'b'" in text for text in report.warnings)
    floored = DetectionDistiller(**args | {"min_teacher_ap": 0.1}).verify(make_data())
    assert any("below min_teacher_ap 0.1" in text for text in floored.errors)


def test_a_ratio_over_no_gradient_is_named_as_such() -> None:
    level = LevelReport((3, 3), (64, 64), 0.5, 0.1, 0.0, 0.0, 2.9e8)
    assert str(level).endswith("gradient KD : detection - (detection gradient ~ 0)")
    assert str(dataclasses.replace(level, gradient_ratio=2.5)).endswith("KD : detection 2.5")


def test_the_report_names_the_checkpoint(with_weights: Args, make_data: Make, tmp_path: Path) -> None:
    report = DetectionDistiller(**with_weights).verify(make_data())
    assert f"teacher 0: RetinaNet with {tmp_path / 'teacher.pth'}" in str(report)


def test_the_tested_images_are_named(make_data: Make) -> None:
    data = make_data()
    data.setup("test")
    assert data.describe("test") == "12 of val/annotations.json (no test_json given: the validation images again)"
