"""Prediction on a folder, W&B overlays, record fields."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from septet.datamodules.coco import COCODetection, generate_shapes
from septet.launch.callbacks import PredictionWriter
from septet.lightning_modules.pkd import DetectionDistiller
from septet.lightning_modules.pkd.metrics import coco_box_stats
from septet.lightning_modules.pkd.pictures import draw_boxes, wandb_boxes

Args = dict[str, Any]


def test_predict_writes_coco_detections_and_pictures(module_args: Args, make_data: Any, tmp_path: Path) -> None:
    module_args["student"]["test_cfg"]["score_thr"] = 0.001
    truth = json.loads(generate_shapes(tmp_path / "in", images=3, seed=5).read_text())
    module = DetectionDistiller(**module_args | {"teachers": [], "losses": []})
    data = make_data(predict_images=str(tmp_path / "in/images"))
    trainer = Trainer(
        default_root_dir=tmp_path / "run", logger=False, enable_progress_bar=False, accelerator="cpu", devices=1
    )
    batches = trainer.predict(module, data)
    assert batches is not None
    rows = [row for batch in batches for row in batch]
    detections = json.loads((tmp_path / "run/predictions.json").read_text())
    assert len(rows) == len(detections) > 0
    assert {"image", "category", "score", "x", "y", "width", "height"} <= set(rows[0])
    assert coco_box_stats(truth, detections)["AP"] >= 0, "ids are those of the sorted file names"
    listing = json.loads((tmp_path / "run/predictions_images.json").read_text())
    assert [x["file_name"] for x in listing["images"]] == ["000001.png", "000002.png", "000003.png"]
    assert len(list((tmp_path / "run/predictions").glob("*.png"))) == 3


def test_no_box_leaves_a_header_and_no_older_table(
    module_args: Args, make_data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module_args["student"]["test_cfg"]["score_thr"] = 0.999
    generate_shapes(tmp_path / "in", images=2, seed=5)
    run = tmp_path / "run"
    run.mkdir()
    (run / "predictions.csv").write_text("image,score\nold.png,1.0\n")
    trainer = Trainer(
        default_root_dir=run, logger=False, enable_progress_bar=False, accelerator="cpu", devices=1,
        callbacks=[PredictionWriter(run)],
    )  # fmt: skip
    module = DetectionDistiller(**module_args | {"teachers": [], "losses": []})
    trainer.predict(module, make_data(predict_images=str(tmp_path / "in/images")), return_predictions=False)
    assert (run / "predictions.csv").read_text() == "image,image_id,category,score,x,y,width,height\n"
    assert json.loads((run / "predictions.json").read_text()) == []
    assert "0 boxes in 2 images" in capsys.readouterr().out


def test_predict_needs_no_annotations_when_classes_are_given(tmp_path: Path) -> None:
    generate_shapes(tmp_path, images=2)
    data = COCODetection(str(tmp_path / "x"), classes=["a", "b"], predict_images=str(tmp_path / "images"))
    data.setup("predict")
    assert data.category_ids == [1, 2]
    assert len(data.predict_dataloader()) == 2
    with pytest.raises(FileNotFoundError, match="to name the classes"):
        COCODetection(str(tmp_path / "x"), predict_images=str(tmp_path / "images")).setup("predict")


def test_predict_keeps_the_ids_of_the_annotation_file(tmp_path: Path) -> None:
    path = generate_shapes(tmp_path, images=2)
    options: Args = {"val_json": path.name, "predict_images": str(tmp_path / "images")}
    data = COCODetection(str(tmp_path), classes=["triangle", "disc"], **options)
    data.setup("predict")
    assert data.category_ids == [3, 1]
    with pytest.raises(ValueError, match="class-missing"):
        COCODetection(str(tmp_path), classes=["wheel"], **options).setup("predict")


def test_overlays() -> None:
    rows = [{"bbox": [1.0, 2.0, 3.0, 4.0], "category_id": 7, "score": 0.5, "image_id": 1}]
    boxes = wandb_boxes(rows, {7: "disc"})
    assert boxes["box_data"][0]["position"] == {"minX": 1.0, "minY": 2.0, "maxX": 4.0, "maxY": 6.0}
    assert boxes["box_data"][0]["scores"] == {"score": 0.5}
    assert boxes["class_labels"] == {7: "disc"}


def test_drawing_marks_the_box() -> None:
    import numpy as np

    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_boxes(image, [{"bbox": [20, 20, 30, 20], "category_id": 1}], {1: "disc"}, "title")
    plain = draw_boxes(image, [], {1: "disc"}, "title")
    assert drawn.shape == (240 + 14, 320, 3)
    assert (drawn != plain).any(axis=2).sum() > 200


def test_wandb_gets_a_table_of_three_sides(
    module_args: Args, make_data: Any, fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="SKIPPED FOR LACK OF the logging extra")
    from lightning.pytorch.loggers.logger import DummyLogger

    logged: list[dict[str, Any]] = []

    class WandbLogger(DummyLogger):
        @property
        def experiment(self) -> Any:
            class Experiment:
                @staticmethod
                def log(content: dict[str, Any]) -> None:
                    logged.append(content)

            return Experiment

    fit(DetectionDistiller(**module_args | {"pictures": 2}), make_data(), logger=WandbLogger(), limit_train_batches=1)
    table = logged[0]["val/boxes"]
    assert table.columns == ["image", "ground truth", "teacher", "student"]
    assert len(table.data) == 2


def test_record_fields(module_args: Args, make_data: Any) -> None:
    module = DetectionDistiller(**module_args)
    module.configure_model()
    fields = module.record_fields()
    assert fields["model"]["variant"] == "pkd:10"
    assert fields["model"]["params"] > 1000
    data = make_data()
    data.setup("fit")
    assert data.record_dataset() == {"name": "generated_shapes", "n_train": 11}
