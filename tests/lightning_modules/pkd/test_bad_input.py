"""What a user gets wrong ends ``septet fit`` with one line before training, and leaves no run behind."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.support.runs import septet

from septet.datamodules.coco import generate_shapes
from septet.lightning_modules.pkd.detectors import build_detector

Args = dict[str, Any]
Change = Callable[[Args, Path], None]


def edit(folder: Path, split: str, change: Callable[[Args], Any]) -> None:
    path = folder / split / "annotations.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def channels(case: Args, folder: Path) -> None:
    student = case["model"]["init_args"]["student"]
    student["neck"]["out_channels"] = student["bbox_head"]["in_channels"] = 16


def checkpoint(case: Args, folder: Path) -> None:
    args = case["model"]["init_args"]
    torch.save(build_detector(args["student"], pretrained=False, initialise=True).state_dict(), folder / "t.pth")
    args["teachers"][0]["checkpoint"] = str(folder / "t.pth")


def absent_checkpoint(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["teachers"][0]["checkpoint"] = str(folder / "absent.pth")


def weak_teacher(case: Args, folder: Path) -> None:
    args = case["model"]["init_args"]
    teacher = build_detector(args["teachers"][0]["config"], pretrained=False, initialise=True)
    torch.save(teacher.state_dict(), folder / "t.pth")
    args["teachers"][0]["checkpoint"] = str(folder / "t.pth")
    args |= {"preflight": True, "min_teacher_ap": 0.5}


def head(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["student"]["bbox_head"]["num_classes"] = 5


def categories(case: Args, folder: Path) -> None:
    edit(folder, "val", lambda d: d.update(categories=d["categories"][::-1]))


def outside(case: Args, folder: Path) -> None:
    edit(folder, "train", lambda d: d["annotations"][0].update(bbox=[-9, 0, 20, 20]))


def levels(case: Args, folder: Path) -> None:
    args = case["model"]["init_args"]
    args["teachers"][0]["config"]["neck"]["num_outs"] = 4
    args["losses"][0]["levels"] = 5


def empty_train(case: Args, folder: Path) -> None:
    edit(folder, "train", lambda d: d.update(annotations=[]))


def empty_val(case: Args, folder: Path) -> None:
    edit(folder, "val", lambda d: d.update(annotations=[]))


def broken(case: Args, folder: Path) -> None:
    (folder / "train/annotations.json").write_text('{"images": [')


CASES: list[tuple[Change, str]] = [
    (channels, "add an adapter"),
    (checkpoint, "the checkpoint does not fit the model"),
    (absent_checkpoint, "no checkpoint at"),
    (weak_teacher, "below min_teacher_ap 0.5"),
    (head, "the student's head has 5 classes, the data 3"),
    (categories, "category mismatch"),
    (outside, "[box-outside] annotation 1"),
    (levels, "the student has 5, the teacher 4"),
    (empty_train, "the annotations are empty"),
    (empty_val, "nothing to score"),
    (broken, "no valid JSON"),
]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[c[0].__name__ for c in CASES])
def test_one_line_and_no_run(
    change: Change, message: str, smoke: Args, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = copy.deepcopy(smoke)
    for number, split in enumerate(("train", "val")):
        generate_shapes(tmp_path / split, images=5, seed=number)
    case["data"]["init_args"] = {
        "root": str(tmp_path), "image_scale": [128, 96], "batch_size": 2,
        "train_json": "train/annotations.json", "val_json": "val/annotations.json",
        "train_images": "train/images", "val_images": "val/images",
    }  # fmt: skip
    change(case, tmp_path)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    capsys.readouterr()
    assert septet("fit", "-c", str(tmp_path / "case.yaml")) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("septet: ")]
    assert len(last) == 1
    assert message in last[0]
    assert not list(runs.glob("pkd/*/*"))
    assert septet("data", "verify", "coco", "-c", str(tmp_path / "case.yaml")) in (1, 2)
