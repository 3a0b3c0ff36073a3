"""Each finding of the annotation check by a file that has only it, and the generator."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.paths import shared_data

from septet.datamodules.coco import CocoProblem, generate_shapes, validate_coco
from septet.datamodules.coco.commands import main
from septet.datamodules.coco.validation import image_problems

GOOD: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
    "categories": [{"id": 2, "name": "disc"}],
}
Change = Callable[[dict[str, Any]], Any]
CASES: list[tuple[str, int | str, Change]] = [
    ("duplicate-image-id", 1, lambda d: d["images"].append(d["images"][0])),
    ("duplicate-annotation-id", 5, lambda d: d["annotations"].append(d["annotations"][0])),
    ("duplicate-category-id", 2, lambda d: d["categories"].append(d["categories"][0])),
    ("unknown-image", 5, lambda d: d["annotations"][0].update(image_id=9)),
    ("unknown-category", 5, lambda d: d["annotations"][0].update(category_id=9)),
    ("box-not-finite", 5, lambda d: d["annotations"][0].update(bbox=[0, 0, float("nan"), 1])),
    ("box-empty", 5, lambda d: d["annotations"][0].update(bbox=[0, 0, 0, 4])),
    ("box-outside", 5, lambda d: d["annotations"][0].update(bbox=[35, 0, 7, 4])),
    ("box-form", 5, lambda d: d["annotations"][0].update(bbox=[1, 2, 3])),
    ("box-form", 5, lambda d: d["annotations"][0].update(bbox=[1, 2, 3, "4"])),
    ("image-size", 1, lambda d: d["images"][0].update(width="40")),
    ("image-size", 1, lambda d: d["images"][0].update(height=0)),
    ("duplicate-file-name", "a.png", lambda d: d["images"].append(d["images"][0] | {"id": 2})),
    ("area-missing", 5, lambda d: d["annotations"][0].pop("area")),
]


def test_a_good_file_has_no_findings() -> None:
    assert validate_coco(GOOD) == []


@pytest.mark.parametrize(("code", "identity", "change"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_each_finding(code: str, identity: int | str, change: Change) -> None:
    data = copy.deepcopy(GOOD)
    change(data)
    (problem,) = validate_coco(data)
    assert (problem.code, problem.id) == (code, identity)
    assert problem.fatal == (code not in ("area-missing", "duplicate-file-name"))
    assert isinstance(problem, CocoProblem)


def test_a_pixel_over_the_border_is_tolerated() -> None:
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["bbox"] = [31, -1, 10, 10]
    assert validate_coco(data) == []


def test_missing_class_and_file(tmp_path: Path) -> None:
    codes = [(p.code, p.id) for p in validate_coco(GOOD, classes=["disc", "wheel"], image_dir=tmp_path)]
    assert codes == [("class-missing", "wheel"), ("missing-file", 1)]
    (tmp_path / "a.png").touch()
    assert validate_coco(GOOD, classes=["disc"], image_dir=tmp_path) == []


@pytest.mark.parametrize("name", ["bccd/annotations/instances_train.json", "bccd/annotations/instances_val.json"])
def test_shipped_annotations_have_nothing_fatal(name: str) -> None:
    assert not [p for p in validate_coco(json.loads(shared_data(f"coco/{name}").read_text())) if p.fatal]


def test_generated_shapes_are_valid_seeded_and_have_crowds_and_an_empty_image(tmp_path: Path) -> None:
    from PIL import Image

    path = generate_shapes(tmp_path / "a", images=24, classes=5, seed=1)
    data = json.loads(path.read_text())
    assert validate_coco(data, image_dir=tmp_path / "a/images") == []
    assert [c["name"] for c in data["categories"]] == ["disc", "rectangle", "triangle", "disc2", "rectangle2"]
    assert {a["iscrowd"] for a in data["annotations"]} == {0, 1}
    assert 24 not in {a["image_id"] for a in data["annotations"]}
    discs = [a for a in data["annotations"] if a["category_id"] == 1]
    assert all(a["area"] < a["bbox"][2] * a["bbox"][3] for a in discs), "area is the mask's"
    assert generate_shapes(tmp_path / "b", images=24, classes=5, seed=1).read_text() == path.read_text()
    assert generate_shapes(tmp_path / "c", images=24, classes=5, seed=2).read_text() != path.read_text()
    with Image.open(tmp_path / "a/images/000001.png") as picture:
        assert picture.size == (128, 96)
    with pytest.raises(ValueError, match="at least 2 images"):
        generate_shapes(tmp_path / "d", images=1)


def test_headers_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert image_problems(GOOD, tmp_path) == []
    Image.new("RGB", (60, 30)).save(tmp_path / "a.png")
    (note,) = image_problems(GOOD, tmp_path)
    assert (note.code, note.id, note.fatal) == ("size-differs", 1, False)
    Image.new("RGB", (8, 30)).save(tmp_path / "a.png")
    assert [(p.code, p.fatal) for p in image_problems(GOOD, tmp_path)] == [
        ("size-differs", False), ("box-outside", True),
    ]  # fmt: skip
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png", exif=turned)
    assert image_problems(GOOD, tmp_path) == [], "decoders turn it"
    (tmp_path / "a.png").write_text("a text")
    (problem,) = image_problems(GOOD, tmp_path)
    assert (problem.code, problem.fatal) == ("unreadable-file", True)


@pytest.mark.parametrize(
    ("change", "code", "shown"),
    [
        ({"annotations": []}, 1, "ERROR no-boxes"),
        ({"images": [], "annotations": []}, 1, "ERROR no-images"),
        ({"annotations": [GOOD["annotations"][0] | {"ignore": 1}]}, 0, "note no-training-box"),
        ({"images": [*GOOD["images"], GOOD["images"][0] | {"id": 2}]}, 0, "note duplicate-file-name"),
        ({"annotations": [GOOD["annotations"][0] | {"bbox": [1, 2, 3]}]}, 1, "ERROR box-form annotation 5"),
    ],
)
def test_verify_agrees_with_fit(
    change: dict[str, Any], code: int, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from septet.datamodules.coco import COCODetection

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(GOOD | change))
    assert main("verify", ["--json", str(tmp_path / "a.json"), "--images", str(tmp_path)]) == code
    assert shown in capsys.readouterr().out
    options: dict[str, Any] = {"train_images": ".", "val_images": ".", "min_size": 1}
    data = COCODetection(str(tmp_path), "a.json", "a.json", **options)
    if code:
        with pytest.raises(ValueError, match=r"a\.json"):
            data.setup("fit")
    elif "duplicate" in shown:
        data.setup("fit")
        assert len(data.datasets["train"]) == 1, "the second image has no box"


def test_unreadable_picture_to_predict(tmp_path: Path) -> None:
    from septet.datamodules.coco import COCODetection

    (tmp_path / "x.jpg").write_text("a text")
    data = COCODetection(str(tmp_path), classes=["disc"], predict_images=str(tmp_path))
    with pytest.raises(ValueError, match=r"x\.jpg is no readable picture"):
        data.setup("predict")
