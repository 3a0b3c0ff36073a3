"""AP by epoch of both arms, the figures of each term over time, and real W&B tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from septet.lightning_modules.pkd import DetectionDistiller, LossSpec
from septet.lightning_modules.pkd.curves import Curves, gradient_share, read_ap

Args = dict[str, Any]
Make = Callable[..., Any]
CSV = "epoch,step,train/loss,val/ap\n0,2,1.5,\n0,3,,0.1\n1,6,,0.25\n1,5,1.2,\n"


def test_gradient_share_is_the_ratio_of_norms() -> None:
    first, second = torch.randn(2, 3), torch.randn(4)
    maps = [first.requires_grad_(), second.requires_grad_()]
    share = gradient_share(3 * (first.sum() + second.sum()), 0.5 * (first.sum() + second.sum()), maps)
    assert share is not None
    assert share.item() == pytest.approx(6.0)
    assert first.grad is None
    assert gradient_share(first.sum(), second.sum(), []) is None
    assert gradient_share(first.sum(), second.sum(), [first]) is None, "no detection gradient reaches this map"
    assert gradient_share(torch.tensor(1.0), first.sum(), maps) is None


def test_baseline_is_read_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(CSV)
    assert read_ap(tmp_path) == read_ap(tmp_path / "metrics.csv") == [(1, 0.1), (2, 0.25)]
    (tmp_path / "other.csv").write_text("epoch,step,val/auc\n0,1,0.5\n")
    with pytest.raises(ValueError, match="val/ap"):
        read_ap(tmp_path / "other.csv")
    with pytest.raises(FileNotFoundError, match="no metrics"):
        read_ap(tmp_path / "absent")


def test_curves_keep_one_value_an_epoch_and_survive_a_checkpoint() -> None:
    curves = Curves()
    for epoch, ap in ((1, 0.1), (2, 0.3), (2, 0.2), (3, -1.0)):
        curves.add(epoch, ap)
    assert curves.ap == [(1, 0.1), (2, 0.2)]
    for epoch in (1, 2, 2):
        curves.note("kd0_pkd", epoch, [8.0, 5.0], 10.0, 0.5)
    assert len(curves.terms) == 2
    assert curves.terms[0]["r"] == pytest.approx([0.2, 0.5])
    again = Curves()
    again.restore(curves.state())
    assert again.state() == curves.state()


def test_pictures_of_both_arms(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "metrics.csv").write_text(CSV)
    options = {"pictures": 1, "baseline": str(tmp_path), "losses": [LossSpec("pkd", 2.0), LossSpec("fitnet", 1.0)]}
    module = DetectionDistiller(**module_args | options)
    logger = CSVLogger(tmp_path / "log")
    fit(module, make_data(), max_epochs=3, logger=logger)
    logger.save()
    assert (Path(logger.log_dir) / "metrics.csv").read_text().count("gradient_share") == 2, "a column for each term"
    assert [epoch for epoch, _ in module.curves.ap] == [1, 2, 3]
    assert module.curves.baseline == [(1, 0.1), (2, 0.25)]
    (axis,) = module.curves.ap_figure("PKD").axes
    assert [line.get_label() for line in axis.get_lines()] == ["PKD", "baseline"]
    assert list(axis.get_lines()[1].get_ydata()) == [0.1, 0.25]
    assert all(row["share"] > 0 for row in module.curves.terms)
    assert {(row["term"], row["epoch"]) for row in module.curves.terms} == {
        (name, epoch) for name in ("kd0_pkd", "kd1_fitnet") for epoch in (1, 2, 3)
    }
    for name in ("ap_by_epoch", "distillation"):
        with Image.open(tmp_path / f"media/{name}.png") as picture:
            colours = picture.convert("RGB").getcolors(2**20)
            assert colours is not None
            assert len(colours) > 20, "lines and text were drawn"


def test_baseline_is_asked_for_at_fit_only(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    module = DetectionDistiller(**module_args | {"baseline": str(tmp_path / "absent")})
    with pytest.raises(FileNotFoundError, match="no metrics"):
        fit(module, make_data(), limit_train_batches=1)


def table_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the newest table among the files staged for upload."""
    tables = []
    for file in folder.rglob("staging/*"):
        head = file.read_bytes()[:1]
        content = json.loads(file.read_text()) if head == b"{" else {}
        if content.get("_type") == "table":
            tables.append(content)
    return [dict(zip(tables[-1]["columns"], row, strict=True)) for row in tables[-1]["data"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_offline_wandb_run_holds_the_three_sides(
    module_args: Args, make_data: Make, fit: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="SKIPPED FOR LACK OF the logging extra")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    logger = WandbLogger(name="x", save_dir=tmp_path, offline=True)
    data = make_data()
    fit(DetectionDistiller(**module_args | {"pictures": 2}), data, logger=logger, limit_train_batches=1)
    wandb.finish()
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert list(run.rglob("media/images/media/val_boxes*.png")), "the picture, for viewers without tables"
    rows = table_rows(tmp_path / "data")
    assert [row["image"] for row in rows] == ["000001.png", "000002.png"]
    truth = [a for a in data.ground_truth("val")["annotations"] if a["image_id"] == 1]
    for side in ("ground truth", "teacher", "student"):
        cell = rows[0][side]
        assert (cell["_type"], cell["width"], cell["height"]) == ("image-file", 128, 96)
        assert set(cell["boxes"]) == {side.replace(" ", "_")}
    drawn = rows[0]["ground truth"]["boxes"]["ground_truth"]
    found = [(b["class_id"], b["position"]["minX"], b["position"]["minY"]) for b in drawn]
    assert found == [(a["category_id"], a["bbox"][0], a["bbox"][1]) for a in truth]
