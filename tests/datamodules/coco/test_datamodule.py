"""COCO data: mmdet's records, repeatable augmentation, grouping, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.paths import shared_data

from septet.datamodules.coco import COCODetection, generate_shapes
from septet.datamodules.coco.batches import AspectRatioBatches
from septet.datamodules.coco.commands import main
from septet.datamodules.coco.dataset import coco_records

needs_mmdet = pytest.mark.usefixtures("_mmdet")


@pytest.fixture
def _mmdet() -> None:
    pytest.importorskip("mmdet", reason="SKIPPED FOR LACK OF the detection extra")


def shapes(tmp_path: Path, **options: Any) -> COCODetection:
    for number, split in enumerate(("train", "val")):
        generate_shapes(tmp_path / split, images=6, seed=number)
    defaults = {"train_images": "train/images", "val_images": "val/images", "image_scale": (96, 64), "batch_size": 2}
    files = {"train_json": "train/annotations.json", "val_json": "val/annotations.json"}
    return COCODetection(str(tmp_path), **{**files, **defaults, **options})


def edit(tmp_path: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / split / "annotations.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@needs_mmdet
@pytest.mark.parametrize("source", ["coco/coco_mini/annotations/instances_train2017.json", "shapes"])
def test_records_equal_mmdet(source: str, tmp_path: Path) -> None:
    from septet.kernels.detection import import_mmdet

    import_mmdet()
    from mmdet.datasets import CocoDataset

    path = generate_shapes(tmp_path, images=20, seed=4) if source == "shapes" else shared_data(source)
    data = json.loads(path.read_text())
    classes = [c["name"] for c in data["categories"]]
    labels = {c["id"]: i for i, c in enumerate(data["categories"])}
    options = {"ann_file": str(path), "metainfo": {"classes": classes}, "pipeline": [], "data_prefix": {"img": "x/"}}
    theirs = CocoDataset(**options, filter_cfg={"filter_empty_gt": True, "min_size": 32})
    ours = [r for r in coco_records(data, Path("x"), labels) if r["annotated"] and min(r["width"], r["height"]) >= 32]
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, (theirs.get_data_info(i) for i in range(len(theirs))), strict=True):
        assert (mine["img_id"], mine["img_path"]) == (other["img_id"], other["img_path"])
        assert mine["instances"] == [{k: v for k, v in x.items() if k != "mask"} for x in other["instances"]]


@needs_mmdet
def test_augmentation_depends_on_seed_epoch_and_index_only(tmp_path: Path) -> None:
    data = shapes(tmp_path, flip=0.5)
    data.setup("fit")
    dataset = data.datasets["train"]

    def flips(epoch: int) -> list[bool]:
        return [bool(dataset[epoch, i]["data_samples"].flip) for i in range(len(dataset))]

    state = torch.get_rng_state()
    assert flips(0) == flips(0)
    assert len({tuple(flips(epoch)) for epoch in range(6)}) > 1
    assert torch.equal(state, torch.get_rng_state()), "the global random state is left alone"


@needs_mmdet
def test_batches_and_worker_processes(tmp_path: Path) -> None:
    alone, workers = shapes(tmp_path), shapes(tmp_path, num_workers=1)
    seen = []
    for data in (alone, workers):
        data.setup("fit")
        seen.append([b["inputs"][0] for b in data.train_dataloader()])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b)
    assert seen[0][0].dtype == torch.uint8
    assert len(seen[0]) == 3, "five annotated images in batches of two"


@needs_mmdet
def test_real_coco_images_that_are_there() -> None:
    data = COCODetection(str(shared_data("coco/coco_mini")), skip_missing=True, batch_size=2, image_scale=(160, 120))
    data.setup("fit")
    assert 0 < len(data.datasets["train"]) <= 33
    assert len(data.classes) == 80
    batch = next(iter(data.val_dataloader()))
    assert {x.img_id for x in batch["data_samples"]} <= {x["id"] for x in data.ground_truth("val")["images"]}


def test_groups_by_aspect_ratio() -> None:
    wide = [True, False] * 5
    batches = AspectRatioBatches(wide, 2, seed=1)
    drawn = batches.epoch_batches(3)
    assert sorted(i for batch in drawn for _, i in batch) == list(range(10))
    assert all(epoch == 3 for batch in drawn for epoch, _ in batch)
    assert sum(len({wide[i] for _, i in batch}) > 1 for batch in drawn) <= 1
    assert drawn == batches.epoch_batches(3) != batches.epoch_batches(4)
    assert all(len(b) == 2 for b in AspectRatioBatches(wide, 2, drop_last=True).epoch_batches(0))


def test_classes_set_labels_and_restrict_the_ground_truth(tmp_path: Path) -> None:
    data = shapes(tmp_path, classes=["triangle", "disc"])
    data.setup("fit")
    assert data.category_ids == [3, 1]
    assert {c["name"] for c in data.ground_truth("val")["categories"]} == {"triangle", "disc"}
    labels = {x["bbox_label"] for r in data.datasets["train"].records for x in r["instances"]}
    assert labels <= {0, 1}


def test_limit_images(tmp_path: Path) -> None:
    data = shapes(tmp_path, limit_images=3)
    data.setup("fit")
    assert len(data.datasets["val"]) == 3
    assert len(data.ground_truth("val")["images"]) == 3


def renamed(data: dict[str, Any]) -> None:
    data["categories"] = data["categories"][::-1]


def emptied(data: dict[str, Any]) -> None:
    data["annotations"] = []


def outside(data: dict[str, Any]) -> None:
    data["annotations"][0]["bbox"][0] = -10


def unlisted(data: dict[str, Any]) -> None:
    data["images"][0]["file_name"] = "absent.png"


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("val", renamed, "category mismatch"),
        ("train", emptied, "annotations are empty"),
        ("val", emptied, "nothing to score"),
        ("train", outside, "box-outside"),
        ("val", unlisted, "missing-file"),
    ],
)
def test_bad_files_stop_before_training(
    split: str, change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    data = shapes(tmp_path)
    edit(tmp_path, split, change)
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


BAD: list[tuple[str, dict[str, Any]]] = [
    ("no data", {}),
    ("batch_size", {"synthetic": 4, "batch_size": 0}),
    ("probability", {"synthetic": 4, "flip": 1.5}),
    ("image_scale", {"synthetic": 4, "image_scale": (0, 10)}),
]


@pytest.mark.parametrize(("message", "options"), BAD)
def test_bad_options(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        COCODetection(**options)


def test_absent_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="septet data prepare coco"):
        COCODetection(str(tmp_path)).setup("fit")
    data = shapes(tmp_path, predict_images=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no picture"):
        data.predict_dataloader()
    with pytest.raises(ValueError, match="class-missing"):
        shapes(tmp_path, classes=["wheel"]).setup("fit")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("generate", ["--folder", str(tmp_path / "g"), "--num-images", "3"]) == 0
    arguments = ["--json", str(tmp_path / "g/annotations.json"), "--images", str(tmp_path / "g/images")]
    assert main("verify", arguments) == 0
    assert main("verify", [*arguments, "--classes", "wheel"]) == 1
    assert "class-missing" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        main("verify", ["--json", str(tmp_path / "absent.json")])
    with pytest.raises(FileNotFoundError, match="no image folder"):
        main("verify", [*arguments[:2], "--images", str(tmp_path / "absent")])
    assert main("prepare", []) == 0
    with pytest.raises(ValueError, match="unknown action"):
        main("sell", [])
