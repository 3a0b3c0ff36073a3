"""The public names import without mmdet, mmcv and mmengine; their absence is told in one line."""

import os
import subprocess
import sys

from tests.support.paths import ROOT

SCRIPT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mmdet", "mmcv", "mmengine"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import septet.kernels.pearson
import septet.datamodules.coco
from septet.lightning_modules.pkd import DetectionDistiller, LossSpec, TeacherSpec, preflight
from septet.lightning_modules.pkd import cache, checkpoints, losses, metrics, mmcv_ops, pairing, preprocess, schedule

module = DetectionDistiller("retinanet/retinanet_r50_fpn_1x_coco")
try:
    module.configure_model()
except ImportError as error:
    print(error)
"""


def test_public_names_need_no_mmdet() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("pkd needs the detection extra: pip install 'septet[detection]'")
