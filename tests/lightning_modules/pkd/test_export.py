"""The exported student: which checkpoint it is, and that mmdet itself finds the same boxes with it."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from septet.datamodules.coco import generate_shapes
from septet.lightning_modules.pkd import DetectionDistiller
from septet.lightning_modules.pkd.__main__ import main
from septet.lightning_modules.pkd.export import export_checkpoint

Args = dict[str, Any]
Make = Callable[..., Any]


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    return {key.removeprefix("student."): value for key, value in content.items() if not key.startswith("losses.")}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=0, msg=key)


class Falling(ModelCheckpoint):
    """Keeps the first epoch as the best one: a metric that only falls."""

    def _monitor_candidates(self, trainer: Any) -> dict[str, Any]:
        return super()._monitor_candidates(trainer) | {"val/ap": torch.tensor(1.0 - 0.1 * trainer.current_epoch)}


@pytest.fixture
def trained(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> Callable[..., DetectionDistiller]:
    def run(**options: Any) -> DetectionDistiller:
        module_args["student"]["test_cfg"]["score_thr"] = 0.001
        keep = Falling(tmp_path / "checkpoints", "best", monitor="val/ap", mode="max")
        module = DetectionDistiller(**module_args | options)
        trainer = fit(module, make_data(), max_epochs=2, callbacks=[keep], enable_checkpointing=True)
        trainer.save_checkpoint(tmp_path / "checkpoints/last.ckpt")
        return module

    return run


def test_best_by_default_last_on_request_and_any_checkpoint(trained: Make, tmp_path: Path) -> None:
    trained()
    best, last = (weights(tmp_path / f"checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert any(not torch.equal(best[k], last[k]) for k in best)
    assert_same(weights(tmp_path / "export/student.pth"), best)
    meta = torch.load(tmp_path / "export/student.pth", weights_only=True)["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 3)
    assert meta["dataset_meta"]["classes"] == ("disc", "rectangle", "triangle")
    path = export_checkpoint(tmp_path / "checkpoints/last.ckpt", tmp_path / "other")
    assert_same(weights(path), last)
    assert torch.load(path, weights_only=True)["meta"]["epoch"] == 2


@pytest.mark.parametrize("choice", ["last", "none"])
def test_other_choices(choice: str, trained: Make, tmp_path: Path) -> None:
    module = trained(export=choice)
    assert (tmp_path / "export").exists() == (choice == "last")
    if choice == "last":
        assert_same(weights(tmp_path / "export/student.pth"), dict(module.student.state_dict()))


def test_mmdet_itself_finds_the_boxes_of_predict(trained: Make, make_data: Make, tmp_path: Path) -> None:
    trained()
    generate_shapes(tmp_path / "in", images=3, seed=8)
    from mmdet.apis import inference_detector, init_detector

    detector = init_detector(
        str(tmp_path / "export/student.py"), str(tmp_path / "export/student.pth"), palette="coco", device="cpu"
    )
    assert detector.dataset_meta["classes"] == ("disc", "rectangle", "triangle")
    module = DetectionDistiller.load_from_checkpoint(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    quiet: Args = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
    Trainer(default_root_dir=tmp_path / "run", **quiet).predict(
        module, make_data(predict_images=str(tmp_path / "in/images")), return_predictions=False
    )
    ours = json.loads((tmp_path / "run/predictions.json").read_text())
    assert len(ours) > 3
    for image in (1, 2, 3):
        found = inference_detector(detector, str(tmp_path / f"in/images/{image:06d}.png")).pred_instances
        mine = [row for row in ours if row["image_id"] == image]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in mine)]
        torch.testing.assert_close(torch.tensor(corners).reshape(-1, 4), found.bboxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(torch.tensor([row["score"] for row in mine]), found.scores, rtol=0, atol=1e-6)
        assert [row["category_id"] - 1 for row in mine] == found.labels.tolist()


def test_a_plain_mmdet_file_is_tested_by_septet(
    trained: Make, module_args: Args, make_data: Make, tmp_path: Path
) -> None:
    trained()
    options: Args = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
    from_lightning = DetectionDistiller.load_from_checkpoint(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    plain = module_args | {"teachers": [], "losses": [], "student_checkpoint": str(tmp_path / "export/student.pth")}
    results = []
    for module in (from_lightning, DetectionDistiller(**plain)):
        results += Trainer(default_root_dir=tmp_path / "t", **options).test(module, make_data(), verbose=False)
    assert results[0] == results[1]
    assert "test/ap" in results[0]


def test_a_fresh_process_needs_the_operators_first(trained: Make, tmp_path: Path) -> None:
    """The lines at the head of ``student.py`` as they stand there."""
    trained()
    generate_shapes(tmp_path / "in", images=2, seed=8)
    head = ast.get_docstring(ast.parse((tmp_path / "export/student.py").read_text()), clean=False)
    assert head is not None
    lines = [line.strip() for line in head.splitlines() if line.startswith("    ")]
    assert lines[0] == "from septet.kernels.detection import install"
    (tmp_path / "picture.jpg").write_bytes((tmp_path / "in/images/000001.png").read_bytes())
    code = "\n".join([*lines, "print(len(result.pred_instances))"])
    script = code.replace('"student', '"export/student')
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 0


def test_command(trained: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(export="none")
    assert main([str(tmp_path / "checkpoints/best.ckpt"), str(tmp_path / "x")]) == 0
    assert str(tmp_path / "x/student.pth") in capsys.readouterr().out
    assert (tmp_path / "x/student.py").is_file()
    assert main([str(tmp_path / "absent.ckpt"), str(tmp_path / "y")]) == 2
    assert main([str(tmp_path / "x/student.pth"), str(tmp_path / "y")]) == 2
    assert "needs no export" in capsys.readouterr().err
    other = {"pytorch-lightning_version": "2.6", "state_dict": {"student.x": torch.zeros(1)}}
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not of a DetectionDistiller"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_unknown_choice(module_args: Args) -> None:
    with pytest.raises(ValueError, match="unknown export 'first'"):
        DetectionDistiller(**module_args | {"export": "first"})
