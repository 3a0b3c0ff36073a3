from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest
from tests.support.paths import ROOT

ROOMS = ("lightning_modules", "datamodules", "kernels", "configs", "launch")


@pytest.mark.slow
def test_the_wheel_exposes_only_septet(tmp_path):
    pytest.importorskip("build")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    top = {n.split("/")[0] for n in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"septet"}
    for wanted in ("septet/configs/cne_n/smoke.yaml", "septet/launch/report/report.html.j2", "septet/py.typed"):
        assert wanted in names
    assert "septet/kernels/__init__.py" not in names


def test_root_entries_are_relative_links():
    for room in ROOMS:
        link = ROOT / room
        if not link.is_symlink():
            pytest.skip("SKIPPED: this checkout has no links")
        assert str(link.readlink()) == f"src/septet/{room}"


@pytest.mark.parametrize("module", ["transformers", "septet"])
def test_imports_with_the_checkout_on_the_path(module):
    if module == "transformers":
        pytest.importorskip("transformers")
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT, timeout=120, capture_output=True)


def test_only_rooms_prefixed_by_septet_are_imported():
    bad = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for line in path.read_text().splitlines():
            if line.startswith(tuple(f"from {r} " for r in ROOMS)) or line.startswith(
                tuple(f"import {r}" for r in ROOMS)
            ):
                bad.append(f"{path}: {line}")
    assert not bad


@pytest.mark.slow
def test_quickstart_needs_core_only(tmp_path):
    """The smoke configuration runs with every extra's package blocked from import."""
    blocked = (
        "transformers accelerate gguf torch_geometric numba lightgbm pandas pyarrow av pycolmap diffusers "
        "mmengine mmdet mmcv cv2 wandb tensorboard onnx sklearn skimage"
    ).split()
    code = (
        f"import sys, lightning.pytorch, torchmetrics\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from septet.launch.cli import main\n"
        "a = ['--trainer.max_epochs', '1', '--trainer.limit_train_batches', '4']\n"
        "assert main(['fit', '-c', 'configs/cne_n/smoke.yaml', *a]) == 0\n"
        "assert main(['test', '--run', 'cne_n/smoke']) == 0\nassert main(['report', 'cne_n/smoke']) == 0\n"
    )
    import os

    env = {**os.environ, "SEPTET_RUNS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
