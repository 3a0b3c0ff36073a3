"""The student as a plain mmdet checkpoint with a runnable configuration, from a run or from any of its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from septet.lightning_modules.pkd.checkpoints import export_mmdet, read_detector_state
from septet.lightning_modules.pkd.detectors import model_config

CHOICES = ("best", "last", "none")
KEY = "pkd_student"
"""Where a distiller's checkpoint describes its student."""
_HEAD = '''"""Student exported by septet, for any mmdet:

    from septet.kernels.detection import install
    install()  # before mmdet, and only where mmcv has no compiled operators (mmcv._ext)
    from mmdet.apis import inference_detector, init_detector
    detector = init_detector("student.py", "student.pth", device="cpu")
    result = inference_detector(detector, "picture.jpg")
"""'''


def describe_student(config: str | Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What a checkpoint must hold for an export without the run's data: plain types only.

    Args:
        config: of the student, as in :func:`~septet.lightning_modules.pkd.detectors.model_config`.
        data: data module, for classes and image scale.
    """
    return {
        "model": model_config(config),
        "classes": [str(c) for c in data.classes],
        "image_scale": [int(n) for n in data.image_scale],
    }


def config_text(student: Mapping[str, Any]) -> str:
    """An mmengine configuration of the student: ``model``, ``metainfo`` and the resize of the recipe.

    Args:
        student: from :func:`describe_student`.
    """
    classes, scale = tuple(student["classes"]), tuple(student["image_scale"])
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    resize = {"type": "Resize", "scale": scale, "keep_ratio": True}
    pipeline = [{"type": "LoadImageFromFile"}, resize, {"type": "PackDetInputs", "meta_keys": keys}]
    lines = [
        _HEAD,
        f"classes = {classes!r}",
        'metainfo = {"classes": classes}',
        f"image_scale = {scale!r}",
        f"model = {student['model']!r}",
        f"test_pipeline = {pipeline!r}",
        'test_dataloader = {"dataset": {"type": "CocoDataset", "metainfo": metainfo, "pipeline": test_pipeline}}',
    ]
    return "\n".join(lines) + "\n"


def write_student(
    folder: Path, state: Mapping[str, torch.Tensor], student: Mapping[str, Any], *, epoch: int, iteration: int
) -> Path:
    """Write ``student.pth`` and ``student.py``; returns the checkpoint's path.

    Args:
        folder: made if absent.
        state: weights under mmdet's key names.
        student: from :func:`describe_student`.
        epoch: epochs begun.
        iteration: optimiser steps done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = config_text(student)
    (folder / "student.py").write_text(text)
    path = folder / "student.pth"
    export_mmdet(path, state, classes=student["classes"], config=text, epoch=epoch, iteration=iteration)
    return path


def export_checkpoint(checkpoint: Path | str, folder: Path | str) -> Path:
    """Export the student of any checkpoint of a distiller.

    Args:
        checkpoint: a Lightning file (``checkpoints/best.ckpt``, ``last.ckpt`` ...).
        folder: gets ``student.pth`` and ``student.py``.

    Returns:
        Path of ``student.pth``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a distiller.
    """
    state = read_detector_state(checkpoint)
    if state.origin != "lightning":
        raise ValueError(f"{checkpoint} is a file of kind {state.origin}, which needs no export; give a run's .ckpt")
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    student = content.get(KEY)
    if student is None:
        raise ValueError(f"{checkpoint} does not describe its student ({KEY}): it is not of a DetectionDistiller")
    epochs = content.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("total", {})
    epoch, iteration = int(epochs.get("ready", content["epoch"])), int(content["global_step"])
    return write_student(Path(folder), state.state_dict, student, epoch=epoch, iteration=iteration)


def export_run(module: Any, folder: Path) -> Path | None:
    """Export what ``export`` of the distiller asks for at the end of a fit.

    Args:
        module: a fitted distiller with its trainer.
        folder: made if absent.

    Returns:
        Path of ``student.pth``; None with ``export: none``.
    """
    if module.export == "none":
        return None
    trainer = module.trainer
    paths = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    best = next((Path(path) for path in paths if path), None)
    if module.export == "best" and best is not None and best.is_file():
        return export_checkpoint(best, folder)
    student = describe_student(module.student_model, trainer.datamodule)
    epoch, iteration = int(trainer.current_epoch), int(trainer.global_step)
    return write_student(folder, module.student.state_dict(), student, epoch=epoch, iteration=iteration)
