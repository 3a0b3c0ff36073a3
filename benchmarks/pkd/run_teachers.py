"""AP of the two shipped teachers on BCCD val, provided operators: python benchmarks/pkd/run_teachers.py OUT.json."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from septet.datamodules.coco import COCODetection
from septet.kernels.detection import provided
from septet.lightning_modules.pkd.detectors import to_coco
from septet.lightning_modules.pkd.metrics import CocoBoxAP
from septet.lightning_modules.pkd.specs import TeacherSpec
from septet.lightning_modules.pkd.teachers import Teacher


def evaluate(name: str, root: Path) -> dict[str, Any]:
    """The twelve COCO numbers of one teacher."""
    data = COCODetection(
        str(root / "bccd"), "annotations/instances_train.json", "annotations/instances_val.json",
        train_images="images", val_images="images", image_scale=(160, 120), batch_size=8,
    )  # fmt: skip
    data.setup("validate")
    teacher = Teacher(TeacherSpec(str(root / f"teachers/{name}.py"), str(root / f"teachers/{name}.pth")))
    metric = CocoBoxAP(data.ground_truth("val"))
    for batch in data.val_dataloader():
        samples = teacher.predict(batch)
        metric.update([int(s.img_id) for s in samples], to_coco(samples, data.category_ids))
    stats = {k: round(float(v), 4) for k, v in metric.compute().items()}
    return {"teacher": name, "provided_operators": provided(), "load": str(teacher.report), **stats}


def main() -> None:
    """Evaluate both and write the record."""
    root = Path(os.environ.get("SEPTET_DATA", "data")) / "coco"
    rows = [evaluate(name, root) for name in ("retinanet_r18w32", "faster-rcnn_r18w32")]
    record = {"command": "python benchmarks/pkd/run_teachers.py OUT.json", "date": time.strftime("%Y-%m-%d")}
    record |= {"torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores (shared)"}
    Path(sys.argv[1]).write_text(json.dumps({**record, "data": "BCCD val, 87 images, 160x120", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
