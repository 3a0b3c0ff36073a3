"""What a user gets wrong ends ``septet fit`` with one line before training, and leaves no run behind."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
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


def loss(**values: Any) -> Change:
    """A change of the one loss."""

    def change(case: Args, folder: Path) -> None:
        case["model"]["init_args"]["losses"][0] |= values

    change.__name__ = "loss_" + "_".join(f"{key}_{value}" for key, value in values.items())
    return change


def teacher_key(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["teachers"][0]["chekpoint"] = "t.pth"


def text_as_teacher(case: Args, folder: Path) -> None:
    (folder / "t.pth").write_text("a text")
    case["model"]["init_args"]["teachers"][0]["checkpoint"] = str(folder / "t.pth")


def text_as_student(case: Args, folder: Path) -> None:
    (folder / "s.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    case["model"]["init_args"]["student_checkpoint"] = str(folder / "s.pth")


def empty_as_student(case: Args, folder: Path) -> None:
    (folder / "s.pth").touch()
    case["model"]["init_args"]["student_checkpoint"] = str(folder / "s.pth")


def text_as_picture(case: Args, folder: Path) -> None:
    (folder / "train/images/000002.png").write_text("a text")


def empty_picture(case: Args, folder: Path) -> None:
    (folder / "val/images/000002.png").write_bytes(b"")


def smaller_picture(case: Args, folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "train/images/000001.png")


def cache_below_a_file(case: Args, folder: Path) -> None:
    (folder / "file").touch()
    case["model"]["init_args"]["cache"] = str(folder / "file/cache")


def cache_of_another_teacher(case: Args, folder: Path) -> None:
    (folder / "cache/teacher0").mkdir(parents=True)
    (folder / "cache/teacher0/header.json").write_text('{"header": {"teacher": "another"}}')
    case["model"]["init_args"]["cache"] = str(folder / "cache")


def damaged_cache(case: Args, folder: Path) -> None:
    (folder / "cache/teacher0").mkdir(parents=True)
    (folder / "cache/teacher0/header.json").write_text("{")
    case["model"]["init_args"]["cache"] = str(folder / "cache")


def no_network(case: Args, folder: Path) -> None:
    args = case["model"]["init_args"]
    args["student"]["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": "http://127.0.0.1:9/r18.pth"}
    args["pretrained"] = True


def three_numbers(case: Args, folder: Path) -> None:
    edit(folder, "train", lambda d: d["annotations"][0].update(bbox=[1, 2, 3]))


def text_coordinate(case: Args, folder: Path) -> None:
    edit(folder, "val", lambda d: d["annotations"][0].update(bbox=[1, 2, 3, "4"]))


def text_width(case: Args, folder: Path) -> None:
    edit(folder, "val", lambda d: d["images"][0].update(width="128"))


def text_id(case: Args, folder: Path) -> None:
    edit(folder, "val", lambda d: d["images"][0].update(id="one"))


def text_channels(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["student"]["neck"]["out_channels"] = "16"


def neck_without_type(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["student"]["neck"] = {"out_channels": 16}


def neck_of_other_inputs(case: Args, folder: Path) -> None:
    case["model"]["init_args"]["student"]["neck"]["in_channels"] = [8, 16, 32, 32]


CASES: list[tuple[Change, str]] = [
    (loss(weight=-1), "weight of a pkd loss must be a finite number of at least 0, got -1"),
    (loss(weight=float("nan")), "got nan"),
    (loss(weight=float("inf")), "got inf"),
    (loss(weight="ten"), "weight of a loss must be float, got 'ten'"),
    (loss(wieght=1), "unknown key 'wieght' of a loss; did you mean 'weight'? it has method, weight, teacher"),
    (teacher_key, "unknown key 'chekpoint' of a teacher; did you mean 'checkpoint'?"),
    (text_as_teacher, "t.pth was refused: no weights-only torch file"),
    (text_as_student, "s.pth was refused: no weights-only torch file"),
    (empty_as_student, "checkpoints of mmdet, mmrazor and Lightning, and bare state dicts"),
    (text_as_picture, "train/images/000002.png is no readable picture"),
    (empty_picture, "val/images/000002.png is empty"),
    (smaller_picture, "leaves its 8x8 image"),
    (cache_below_a_file, "file/cache cannot be written (Not a directory)"),
    (cache_of_another_teacher, "cache/teacher0 was made with config = None"),
    (damaged_cache, "has a damaged header.json; delete the folder"),
    (no_network, "set pretrained: false"),
    (three_numbers, "train/annotations.json has 1 fatal problems: [box-form] annotation 1 (image 1): bbox [1, 2, 3]"),
    (text_coordinate, "write four numbers"),
    (text_width, "[image-size] image 1 has width '128'"),
    (text_id, "record 0 of 'images' has id 'one', which must be a whole number"),
    (text_channels, "the student's configuration cannot be built: TypeError"),
    (neck_without_type, "got {'out_channels': 16}; a part given on the command line replaces the whole part"),
    (neck_of_other_inputs, "check in_channels and out_channels"),
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


@pytest.fixture
def case(smoke: Args, tmp_path: Path) -> Args:
    """The smoke pair on files of its own."""
    content = copy.deepcopy(smoke)
    for number, split in enumerate(("train", "val")):
        generate_shapes(tmp_path / split, images=5, seed=number)
    content["data"]["init_args"] = {
        "root": str(tmp_path), "image_scale": [128, 96], "batch_size": 2,
        "train_json": "train/annotations.json", "val_json": "val/annotations.json",
        "train_images": "train/images", "val_images": "val/images",
    }  # fmt: skip
    return content


@pytest.mark.parametrize(("change", "message"), CASES, ids=[c[0].__name__ for c in CASES])
def test_one_line_and_no_run(
    change: Change, message: str, case: Args, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(case, tmp_path)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    capsys.readouterr()
    assert septet("fit", "-c", str(tmp_path / "case.yaml")) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("septet: ")]
    assert len(last) == 1
    assert message in last[0]
    assert not list(runs.glob("pkd/*/*"))
    found = septet("data", "verify", "coco", "-c", str(tmp_path / "case.yaml"))
    assert found in (1, 2) or change in (cache_of_another_teacher, damaged_cache), (
        "a case is verified without its cache"
    )


def test_a_later_list_of_teachers_replaces_the_whole_list(
    case: Args, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of the file is not kept for another teacher."""
    args = case["model"]["init_args"]
    args["teachers"][0]["checkpoint"] = "of_the_file.pth"
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    other = "--model.init_args.teachers=[{config: retinanet/retinanet_r18_fpn_1x_coco}]"
    assert septet("fit", "-c", str(tmp_path / "case.yaml"), other, "--model.init_args.preflight", "true") == 2
    assert "a teacher has no checkpoint" in capsys.readouterr().err
    assert not list(runs.glob("pkd/*/*"))


def test_a_student_whose_head_does_not_fit_its_neck(case: Args, tmp_path: Path) -> None:
    from septet.datamodules.coco import COCODetection
    from septet.lightning_modules.pkd import DetectionDistiller

    args = case["model"]["init_args"]
    args["student"]["bbox_head"] = args["student"]["bbox_head"] | {"in_channels": 16}
    module = DetectionDistiller(**args)
    with pytest.raises(ValueError, match="the student cannot compute its loss on the first batch"):
        module.verify(COCODetection(**case["data"]["init_args"]))


def test_export_of_a_text_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from septet.lightning_modules.pkd.__main__ import main

    (tmp_path / "last.ckpt").write_text("a text")
    assert main([str(tmp_path / "last.ckpt"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "last.ckpt was refused" in line
    assert "mmdet, mmrazor and Lightning" in line
    assert not (tmp_path / "out").exists()
