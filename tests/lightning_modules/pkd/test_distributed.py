"""Two gloo processes: the metric equals the single-process one, training runs, ranks agree."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.paths import ROOT, golden, shared_data

from septet.lightning_modules.pkd.metrics import coco_box_stats

METRIC = """
import json, sys
import numpy as np, torch
import torch.distributed as dist
from septet.lightning_modules.pkd.metrics import CocoBoxAP

rank, folder, truth, rows = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.load(open(sys.argv[4]))
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
images = [x["id"] for x in json.load(open(truth))["images"]]
mine = images[rank::2] + images[:3]  # padded: three images are seen by both ranks, once with other detections
metric = CocoBoxAP(truth)
for start in range(0, len(mine), 9):
    part = mine[start:start + 9]
    metric.update(part, [r for r in rows if r["image_id"] in part])
json.dump({k: float(v) for k, v in metric.compute().items()}, open(f"{folder}/stats{rank}.json", "w"))
dist.destroy_process_group()
"""

TRAIN = """
import sys, yaml
from lightning.pytorch import Trainer, seed_everything
from septet.datamodules.coco import COCODetection
from septet.lightning_modules.pkd import DetectionDistiller, LossSpec

if __name__ == "__main__":
    args = yaml.safe_load(open(sys.argv[1]))["model"]["init_args"]
    args["student"]["test_cfg"]["score_thr"] = 0.0
    args |= {"pictures": 0, "losses": [LossSpec("fgd", 1.0, levels=5), LossSpec("pkd", 2.0)]}
    seed_everything(0)
    data = COCODetection(synthetic=10, image_scale=(128, 96), batch_size=2, seed=3)
    quiet = dict(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=sys.argv[2],
    )
    trainer = Trainer(max_epochs=1, devices=2, strategy="ddp_spawn", num_sanity_val_steps=0, **quiet)
    trainer.fit(DetectionDistiller(**args), data)
    print("loss", float(trainer.callback_metrics["train/loss"]), "ap", float(trainer.callback_metrics["val/ap50"]))
    args |= {"student_checkpoint": sys.argv[2] + "/export/student.pth", "teachers": [], "losses": []}
    alone = Trainer(devices=1, **quiet)
    alone.validate(DetectionDistiller(**args), data, verbose=False)
    print("alone", float(alone.callback_metrics["val/ap50"]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_metric_on_two_processes(tmp_path: Path) -> None:
    truth = shared_data("coco/coco_mini/annotations/instances_val2017.json")
    with np.load(golden("pkd", "coco_eval_coco_mini_val.npz"), allow_pickle=False) as z:
        keys = ("image_id", "category_id", "bbox", "score")
        rows = [dict(zip(keys, row, strict=True)) for row in zip(*(z[k].tolist() for k in keys), strict=True)]
        expected = z["stats"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "metric.py").write_text(METRIC)
    command = [sys.executable, str(tmp_path / "metric.py")]
    tails: list[list[Any]] = [[str(r), str(tmp_path), str(truth), str(tmp_path / "rows.json")] for r in range(2)]
    workers = [subprocess.Popen(command + tail, cwd=ROOT, env=environment()) for tail in tails]
    assert [w.wait(timeout=120) for w in workers] == [0, 0]
    for rank in range(2):
        stats = json.loads((tmp_path / f"stats{rank}.json").read_text())
        np.testing.assert_allclose(list(stats.values()), expected, rtol=0, atol=1e-12)
    assert list(coco_box_stats(truth, rows)) == list(stats)


@pytest.mark.slow
def test_training_on_two_processes(tmp_path: Path, smoke: dict[str, Any]) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    config = ROOT / "src/septet/configs/pkd/smoke.yaml"
    command = [sys.executable, str(tmp_path / "train.py"), str(config), str(tmp_path / "run")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    words = done.stdout.split()
    loss, together, alone = (float(words[words.index(name) + 1]) for name in ("loss", "ap", "alone"))
    assert loss > 0
    assert together == pytest.approx(alone, abs=1e-6)
    assert alone > 0, "an AP of zero would compare nothing"
    assert torch.load(tmp_path / "run/export/student.pth", weights_only=True)["meta"]["iter"] == 3
