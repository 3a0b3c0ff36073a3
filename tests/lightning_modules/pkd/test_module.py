"""The distiller end to end on generated shapes: parity, frozen teachers, resume, cache, export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from septet.lightning_modules.pkd import DetectionDistiller, LossSpec, TeacherSpec

Args = dict[str, Any]
Make = Callable[..., Any]


class Losses(Callback):
    """Loss of every step, and what training does to the teacher."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.teacher_trains: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))
        self.teacher_trains += [m.training for t in pl_module.teachers for m in t.model.modules()]


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=0, msg=key)


def plain_training(args: Args, data: Any, epochs: int) -> dict[str, Tensor]:
    """mmdet's own training loop of the student, without any of ours."""
    from lightning.pytorch import seed_everything

    from septet.lightning_modules.pkd.detectors import build_detector

    seed_everything(0)
    data.setup("fit")
    model: Any = build_detector(args["student"], pretrained=False, initialise=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = data.train_dataloader()
    model.train()
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        for batch in loader:
            prepared = model.data_preprocessor(batch, True)
            loss, _ = model.parse_losses(model(**prepared, mode="loss"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return snapshot(model)


def test_without_losses_it_is_plain_training(module_args: Args, make_data: Make, fit: Make) -> None:
    args = module_args | {"teachers": [], "losses": [], "optimizer": {"type": "SGD", "lr": 0.01}}
    module = DetectionDistiller(**args | {"schedule": {"type": "constant"}})
    fit(module, make_data(), max_epochs=2, limit_val_batches=0)
    assert_equal(snapshot(module.student), plain_training(args, make_data(), 2))


def test_teacher_stays_frozen_and_outside(module_args: Args, make_data: Make, fit: Make) -> None:
    module = DetectionDistiller(**module_args)
    module.configure_model()
    before = snapshot(module.teachers[0].model)
    losses = Losses()
    trainer = fit(module, make_data(), callbacks=[losses])
    assert_equal(before, snapshot(module.teachers[0].model))
    assert not any(losses.teacher_trains)
    assert not any("teacher" in key for key in module.state_dict())
    assert not any(p.requires_grad for p in module.teachers[0].model.parameters())
    assert trainer.callback_metrics["train/kd0_pkd"] > 0
    assert trainer.callback_metrics["train/loss"] > trainer.callback_metrics["train/loss_det"]
    assert "val/ap" in trainer.callback_metrics


def test_resume_equals_an_unbroken_run(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    straight = DetectionDistiller(**module_args)
    fit(straight, make_data(), max_epochs=2)
    first = DetectionDistiller(**module_args)

    class StopInTheMiddle(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(first, make_data(), max_epochs=2, callbacks=[StopInTheMiddle()])
    resumed = DetectionDistiller(**module_args)
    trainer = fit(resumed, make_data(), max_epochs=2, ckpt_path=str(tmp_path / "middle.ckpt"))
    assert trainer.global_step == 6
    assert_equal(snapshot(straight.student), snapshot(resumed.student))


def test_checkpoint_holds_plain_types_and_loads(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    args = module_args | {"losses": [LossSpec("pkd", 2.0)]}
    args["teachers"] = [TeacherSpec(**t) for t in args["teachers"]]
    module = DetectionDistiller(**args)
    fit(module, make_data(), limit_val_batches=0).save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["hyper_parameters"]["losses"][0]["weight"] == 2.0
    again = DetectionDistiller.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert again.loss_specs == module.loss_specs
    assert_equal(snapshot(module.student), snapshot(again.student))


def test_stopped_losses_skip_the_teacher(module_args: Args, make_data: Make, fit: Make) -> None:
    args = module_args | {"losses": [LossSpec("pkd", 1.0, start=1, stop=2)]}
    module = DetectionDistiller(**args)
    calls: list[int] = []

    class Count(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            calls.append(pl_module._supply.live_calls)

    fit(module, make_data(), max_epochs=3, callbacks=[Count()], limit_val_batches=0)
    assert calls == [0, 3, 3]


def test_cached_run_equals_the_live_one(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    curves = []
    for cache in (None, str(tmp_path / "cache")):
        losses = Losses()
        module = DetectionDistiller(**module_args | {"cache": cache, "optimizer": {"type": "SGD", "lr": 1e-3}})
        fit(module, make_data(), max_epochs=6, callbacks=[losses], limit_val_batches=0)
        curves.append(losses.values)
        if cache:
            assert module._supply is not None
            assert module._supply.live_calls < 18
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=2e-3, atol=0)
    assert curves[0][:3] == curves[1][:3]


def test_cache_refuses_random_geometry(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    from septet.datamodules.coco.dataset import default_pipeline

    data = make_data(train_pipeline=default_pipeline((128, 96), 0.5))
    with pytest.raises(ValueError, match="fixed-size"):
        fit(DetectionDistiller(**module_args | {"cache": str(tmp_path / "c")}), data)
    with pytest.raises(ValueError, match="over the limit"):
        fit(DetectionDistiller(**module_args | {"cache": str(tmp_path / "c"), "cache_limit_gb": 1e-4}), make_data())


def test_exported_student_finds_the_same_boxes_in_mmdet(
    module_args: Args, make_data: Make, fit: Make, tmp_path: Path
) -> None:
    module_args["student"]["test_cfg"]["score_thr"] = 0.001
    module, data = DetectionDistiller(**module_args), make_data()
    fit(module, data)
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.runner import load_checkpoint

    config = Config.fromfile(str(tmp_path / "export/student.py"))
    assert config.classes == tuple(data.classes)
    model = MODELS.build(config.model)
    load_checkpoint(model, str(tmp_path / "export/student.pth"), map_location="cpu", strict=True)
    model.eval()
    module.eval()
    ours = module.detect(data.batch("val", [0, 1]))
    theirs = model.val_step(data.batch("val", [0, 1]))
    assert sum(len(s.pred_instances) for s in ours) > 0
    for a, b in zip(ours, theirs, strict=True):
        for field in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(a.pred_instances[field], b.pred_instances[field], rtol=0, atol=0)


@pytest.mark.parametrize(
    "spec",
    [
        LossSpec("fitnet", 1.0), LossSpec("cwd", 10.0, levels=5), LossSpec("mgd", 1.0), LossSpec("fgd", 1.0, levels=5),
        LossSpec("pkd", 3.0, pairs="stride"), LossSpec("pkd", 3.0, pairs=[[1, 0], [2, 1]], options={"min_std": 1e-3}),
        LossSpec("pkd", 1.0, options={"adapter": "conv1x1", "resize": "teacher"}),
    ],
    ids=lambda s: f"{s.method}-{s.pairs}",
)  # fmt: skip
def test_every_method_trains(spec: LossSpec, module_args: Args, make_data: Make, fit: Make) -> None:
    module = DetectionDistiller(**module_args | {"losses": [spec]})
    trainer = fit(module, make_data(), limit_train_batches=2, limit_val_batches=0)
    assert torch.isfinite(trainer.callback_metrics[f"train/kd0_{spec.method}"])
    learned = list(module.losses.parameters())
    assert bool(learned) == (spec.method in ("mgd", "fgd") or "adapter" in spec.options)
    assert all(p.grad is not None for p in learned)


def test_bfloat16_training(module_args: Args, make_data: Make, fit: Make) -> None:
    module = DetectionDistiller(**module_args)
    trainer = fit(module, make_data(), precision="bf16-mixed", limit_train_batches=2, limit_val_batches=0)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_pictures_show_all_three_sides(module_args: Args, make_data: Make, fit: Make, tmp_path: Path) -> None:
    from PIL import Image

    fit(DetectionDistiller(**module_args | {"pictures": 2}), make_data(), limit_train_batches=1)
    with Image.open(tmp_path / "media/val_boxes.png") as picture:
        assert picture.width == 3 * 320
        assert picture.height > 2 * 200
