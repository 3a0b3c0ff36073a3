"""The student as a plain mmdet checkpoint with a runnable configuration."""

from pathlib import Path
from typing import Any

from septet.lightning_modules.pkd.checkpoints import export_mmdet
from septet.lightning_modules.pkd.detectors import model_config


def config_text(module: Any, data: Any) -> str:
    """An mmengine configuration of the student: ``model``, ``metainfo`` and the resize of the recipe."""
    classes = tuple(str(c) for c in data.classes)
    model = model_config(module.student_config)
    lines = [
        '"""Student exported by septet; load the .pth beside it with load_state_dict(strict=True)."""',
        f"classes = {classes!r}",
        'metainfo = {"classes": classes}',
        f"image_scale = {tuple(data.image_scale)!r}",
        f"model = {model!r}",
    ]
    scale = {"type": "Resize", "scale": tuple(data.image_scale), "keep_ratio": True}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [{"type": "LoadImageFromFile"}, scale, {"type": "PackDetInputs", "meta_keys": keys}]
    lines += [
        f"test_pipeline = {pipeline!r}",
        'test_dataloader = {"dataset": {"type": "CocoDataset", "pipeline": test_pipeline}}',
    ]
    return "\n".join(lines) + "\n"


def export_student(module: Any, folder: Path) -> Path:
    """Write ``student.pth`` and ``student.py``.

    Args:
        module: a fitted distiller with its trainer.
        folder: made if absent.

    Returns:
        The checkpoint's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = module.trainer
    text = config_text(module, trainer.datamodule)
    (folder / "student.py").write_text(text)
    path = folder / "student.pth"
    export_mmdet(
        path,
        module.student.state_dict(),
        classes=trainer.datamodule.classes,
        config=text,
        epoch=int(trainer.current_epoch),
        iteration=int(trainer.global_step),
    )
    return path
