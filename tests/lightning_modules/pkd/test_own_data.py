"""A user's own COCO file from the command line: train a teacher, check the pair, distil, test, predict a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.paths import ROOT
from tests.support.runs import newest, septet

from septet.datamodules.coco import generate_shapes
from septet.lightning_modules.pkd.detectors import model_config

pytestmark = pytest.mark.usefixtures("smoke")
NAMES = ["part", "scratch"]


def own_files(folder: Path) -> None:
    """Two classes of other names with ids 7 and 3, and a third class that nobody asked for."""
    for split, seed in (("train", 1), ("val", 2)):
        path = generate_shapes(folder / split, images=10, classes=3, seed=seed)
        data = json.loads(path.read_text())
        ids = {1: 7, 2: 3, 3: 12}
        data["categories"] = [{"id": 7, "name": "part"}, {"id": 3, "name": "scratch"}, {"id": 12, "name": "dirt"}]
        for record in data["annotations"]:
            record["category_id"] = ids[record["category_id"]]
            del record["iscrowd"], record["area"]
        for record in data["images"]:
            record["file_name"] = f"{split}/images/{record['file_name']}"
        (folder / f"{split}.json").write_text(json.dumps(data))


def tiny(name: str, folder: Path) -> str:
    """The shipped recipe on small pictures with a narrow backbone, from scratch."""
    case = yaml.safe_load((ROOT / f"src/septet/configs/pkd/{name}.yaml").read_text())
    args, data = case["model"]["init_args"], case["data"]["init_args"]
    args["student"] |= {
        "backbone": {"depth": 18, "base_channels": 8, "stem_channels": 8, "frozen_stages": -1, "norm_eval": False},
        "neck": {"in_channels": [8, 16, 32, 64], "out_channels": 32},
        "test_cfg": {"score_thr": 0.0},
    }
    args["student"]["bbox_head"] |= {"in_channels": 32, "feat_channels": 32, "stacked_convs": 1}
    args |= {"pretrained": False, "pictures": 1, "min_teacher_ap": None}
    data |= {"root": str(folder), "image_scale": [128, 96], "num_workers": 0}
    data |= {"train_images": ".", "val_images": "."}
    case["trainer"] |= {"max_epochs": 2, "accelerator": "cpu"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(case, sort_keys=False))
    return str(folder / f"{name}.yaml")


def test_recipe(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_files(tmp_path)
    assert septet("data", "verify", "coco", "--json", str(tmp_path / "train.json"), "--classes", *NAMES) == 0
    assert septet("fit", "-c", tiny("own_teacher", tmp_path)) == 0
    teacher = newest(runs, "pkd", "own_teacher") / "export"
    monkeypatch.setenv("OWN_TEACHER", str(teacher))
    student = tiny("own_student", tmp_path)
    assert septet("data", "verify", "coco", "-c", student, "--out", str(tmp_path / "preflight.json")) == 0
    shown = capsys.readouterr().out
    assert "classes: part, scratch" in shown
    report: dict[str, Any] = json.loads((tmp_path / "preflight.json").read_text())
    assert report["teachers"][0]["load_counts"]["missing"] == 0
    assert report["errors"] == []
    assert septet("fit", "-c", student) == 0
    run = newest(runs, "pkd", "own_student")
    assert (run / "media/preflight.json").is_file()
    assert septet("test", "--run", "pkd/own_student") == 0
    folder = tmp_path / "val/images"
    assert septet("predict", "--run", "pkd/own_student", "--data.init_args.predict_images", str(folder)) == 0
    detections = json.loads((run / "predictions.json").read_text())
    assert {row["category_id"] for row in detections} <= {7, 3}
    assert {row["image_id"] for row in detections} <= set(range(1, 11))
    assert len(list((run / "predictions").glob("*.png"))) == 10
    listing = json.loads((run / "predictions_images.json").read_text())
    assert [x["name"] for x in listing["categories"]] == NAMES


def test_base_with_changes() -> None:
    source = {"_base_": "retinanet/retinanet_r18_fpn_1x_coco", "bbox_head": {"num_classes": 2}}
    plain, changed = model_config("retinanet/retinanet_r18_fpn_1x_coco"), model_config(source)
    assert (plain["bbox_head"].pop("num_classes"), changed["bbox_head"].pop("num_classes")) == (80, 2)
    assert plain == changed
    nested = {"_base_": source["_base_"], "model": {"bbox_head": {"num_classes": 3}}}
    assert model_config(nested)["bbox_head"]["num_classes"] == 3
    assert source["bbox_head"] == {"num_classes": 2}
    with pytest.raises(ValueError, match="no detector configuration"):
        model_config({"_base_": "retinanet/nothing"})
