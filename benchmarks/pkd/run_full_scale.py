"""Training steps of a published pair on a GPU, random weights: python benchmarks/pkd/run_full_scale.py OUT.json [CASE].

Student RetinaNet-R50, teacher Mask R-CNN-Swin-S, index pairs, 800x1333 pictures of noise, batch 2 to 16. For each batch
the median step and the peak memory: student alone, live teacher in float32, bfloat16, compiled, and the plain formula.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from septet.launch.bench.pkd import _plain_level
from septet.lightning_modules.pkd import DetectionDistiller, LossSpec, TeacherSpec, terms

STUDENT, TEACHER = "retinanet/retinanet_r50_fpn_2x_coco", "swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco"


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """The formula as written down, after the reference's resize."""
    size = teacher.shape[-2:]
    return _plain_level(functional.interpolate(student, size, mode="bilinear", align_corners=False), teacher)


def build(device: str, precision: str = "32", compiled: bool = False) -> Any:
    """The distiller of the pair on a device."""
    torch.manual_seed(0)
    teacher = TeacherSpec(TEACHER, precision=precision, compile=compiled)
    loss = LossSpec("pkd", 6.0, pairs="index", levels=4)
    module = DetectionDistiller(STUDENT, [teacher], [loss], preflight=False, pictures=0)
    module.configure_model()
    module.to(device).student.train()
    module.student.data_preprocessor.to(device)
    return module


def stepper(module: Any, batch: int, *, distil: bool) -> Callable[[], None]:
    """One optimisation step as a call."""
    from mmdet.testing import demo_mm_inputs

    optimizer = torch.optim.SGD(module.student.parameters(), lr=1e-4, momentum=0.9)
    shapes, items = [[3, 800, 1333]] * batch, [8] * batch

    def step() -> None:
        data = demo_mm_inputs(batch, shapes, num_items=items, num_classes=80)
        loss, _, prepared = module.student_loss(data)
        for levels in module.distill_losses(prepared, module.active(0) if distil else []).values():
            loss = loss + levels.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(step: Callable[[], None], repeats: int = 5) -> tuple[float, float]:
    """Median seconds (host data included) and peak GB after warm-up."""
    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    """Write every row as it is known; a case that does not fit is named so."""
    out, device = Path(sys.argv[1]), "cuda"
    content: dict[str, Any] = {
        "command": "python benchmarks/pkd/run_full_scale.py OUT.json", "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "rows": [],
        "pair": f"{TEACHER} to {STUDENT}, random weights, 800x1333, float32 student",
    } | (json.loads(out.read_text()) if out.is_file() else {})  # fmt: skip
    ours = terms._FUNCTIONS["pkd"]
    cases = {
        "student only": ({}, False, ours), "teacher 32": ({}, True, ours),
        "teacher 32, plain formula": ({}, True, plain),
        "teacher bf16": ({"precision": "bf16"}, True, ours),
        "teacher bf16, compiled": ({"precision": "bf16", "compiled": True}, True, ours),
    }  # fmt: skip
    for name, (options, distil, function) in cases.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        module = build(device, **options)
        terms._FUNCTIONS["pkd"] = function
        for batch in (2, 4, 8, 16):
            row: dict[str, Any] = {"case": name, "batch": batch}
            try:
                row["step_s"], row["peak_gb"] = measure(stepper(module, batch, distil=distil))
            except torch.cuda.OutOfMemoryError:
                row["note"] = "out of memory"
            content["rows"].append(row)
            out.write_text(json.dumps(content, indent=1))
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()
        terms._FUNCTIONS["pkd"] = ours
        del module
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
