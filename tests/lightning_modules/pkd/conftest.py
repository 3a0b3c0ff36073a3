"""Tiny detectors on generated shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer, seed_everything

from septet.datamodules.coco import COCODetection

SMOKE = Path(__file__).resolve().parents[3] / "src/septet/configs/pkd/smoke.yaml"


@pytest.fixture(scope="session")
def smoke() -> dict[str, Any]:
    pytest.importorskip("mmdet", reason="SKIPPED FOR LACK OF the detection extra")
    config: dict[str, Any] = yaml.safe_load(SMOKE.read_text())
    return config


@pytest.fixture
def module_args(smoke: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the smoke case's distiller, fresh."""
    args: dict[str, Any] = yaml.safe_load(SMOKE.read_text())["model"]["init_args"]
    return args | {"pictures": 0}


@pytest.fixture
def make_data() -> Callable[..., COCODetection]:
    def make(**options: Any) -> COCODetection:
        defaults = {"synthetic": 12, "image_scale": (128, 96), "batch_size": 4, "seed": 3}
        return COCODetection(**{**defaults, **options})

    return make


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trainer]:
    def run(module: Any, data: Any, *, ckpt_path: str | None = None, **options: Any) -> Trainer:
        seed_everything(0)
        defaults: dict[str, Any] = {
            "max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path, "deterministic": True, "log_every_n_steps": 1,
        }  # fmt: skip
        trainer = Trainer(**{**defaults, **options})
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run
