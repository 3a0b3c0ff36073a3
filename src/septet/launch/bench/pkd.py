"""Figures of the distillation term: time and memory against the plain formula, and the cost of a teacher per step."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from septet.kernels.pearson import pkd_loss

Row = dict[str, Any]
_LEVELS = ((100, 168), (50, 84), (25, 42), (13, 21))
"""P3..P6 of a padded 800x1333 image."""


def run(device: str, quick: bool) -> list[Row]:
    """All rows; the CPU is measured with one thread. Without mmdet only the rows of the loss itself."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        steps = _steps(device, quick) if importlib.util.find_spec("mmdet") is not None else []
        return [*_term(device, quick), *steps]
    finally:
        torch.set_num_threads(threads)


def _plain_level(student: Tensor, teacher: Tensor) -> Tensor:
    """The formula as written down in the reference: standardise each channel, then half the mean squared error."""

    def standardise(maps: Tensor) -> Tensor:
        n, c, h, w = maps.shape
        rows = maps.permute(1, 0, 2, 3).reshape(c, -1)
        rows = (rows - rows.mean(dim=-1, keepdim=True)) / (rows.std(dim=-1, keepdim=True) + 1e-6)
        return rows.reshape(c, n, h, w).permute(1, 0, 2, 3)

    return functional.mse_loss(standardise(student), standardise(teacher)) / 2


def _plain(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    return torch.stack([_plain_level(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


def _sync(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _timed(call: Callable[[], Any], device: str) -> float:
    _sync(device)
    start = time.perf_counter() if device != "cpu" else time.process_time()
    call()
    _sync(device)
    return (time.perf_counter() if device != "cpu" else time.process_time()) - start


def _medians(calls: Sequence[Callable[[], Any]], repeats: int, device: str) -> list[float]:
    """Median seconds of each call, measured in turn so that drift hits all alike (CPU seconds on a CPU)."""
    for call in calls:
        call()
    rounds = [[_timed(call, device) for call in calls] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _saved_bytes(loss: Callable[[Any, Any], Tensor], student: list[Tensor], teacher: list[Tensor]) -> int:
    """Bytes kept for backward beside the maps themselves."""
    known = {x.untyped_storage().data_ptr() for x in (*student, *teacher)}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    held = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held.append(loss(student, teacher))
    return sum(kept.values())


def _term(device: str, quick: bool) -> list[Row]:
    channels = 32 if quick else 256
    generator = torch.Generator().manual_seed(0)
    maps = [[torch.randn(2, channels, h, w, generator=generator).to(device) for h, w in _LEVELS] for _ in range(2)]
    student, teacher = [x.requires_grad_() for x in maps[0]], maps[1]

    def both_ways(loss: Callable[[Any, Any], Tensor]) -> Callable[[], None]:
        def call() -> None:
            for x in student:
                x.grad = None
            loss(student, teacher).backward()  # type: ignore[no-untyped-call]

        return call

    flat = torch.cat([x.detach().flatten() for x in student])
    target = torch.empty_like(flat)
    calls = [both_ways(pkd_loss), both_ways(_plain), lambda: target.copy_(flat)]
    ours, plain, copy = _medians(calls, 5 if quick else 15, device)
    side = sum(x.numel() * 4 for x in student)
    rows = [
        _row(
            "kd term, forward + backward",
            ours,
            "s",
            "plain formula",
            plain,
            "<= 0.6",
            f"N 2, {channels} channels, P3..P6 of 800x1333, {side / 2**20:.0f} MiB a side",
        )
    ]
    saved = [_saved_bytes(loss, student, teacher) / 1e6 for loss in (pkd_loss, _plain)]
    rows.append(
        _row(
            "saved for backward beside the maps",
            saved[0],
            "MB",
            "plain formula",
            saved[1],
            "0 but per-channel numbers",
            "",
        )
    )
    bandwidth, own = 2 * side / copy / 1e9, 6 * side / ours / 1e9
    note = "6 transfers of one side over the term's time, against a plain copy (2 transfers)"
    rows.append(_row("kd term, memory traffic", own, "GB/s", "copy", bandwidth, ">= 0.4 on a GPU (estimate)", note))
    return rows


def _row(name: str, value: float, unit: str, peer: str, peer_value: float, limit: str, note: str) -> Row:
    ratio = value / peer_value if peer_value else None
    row = {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value}
    return {**row, "ratio": ratio, "limit": limit, "note": note}


def _pair() -> tuple[dict[str, Any], str]:
    """The smoke case's arguments, with the BCCD pair's detectors where they are at hand."""
    import os

    import yaml

    args: dict[str, Any] = yaml.safe_load((files("septet.configs") / "pkd" / "smoke.yaml").read_text())["model"][
        "init_args"
    ]
    folder = Path(os.environ.get("SEPTET_DATA", "data")) / "coco" / "teachers"
    if (folder / "retinanet_r18w16.py").is_file():
        args["student"] = str(folder / "retinanet_r18w16.py")
        args["teachers"] = [
            {"config": str(folder / "retinanet_r18w32.py"), "checkpoint": str(folder / "retinanet_r18w32.pth")}
        ]
        return args, "retinanet_r18w16 from retinanet_r18w32, batch 8, 160x120"
    return args, "the smoke pair, batch 8, 160x120"


def _steps(device: str, quick: bool) -> list[Row]:
    """Time of a training step with a live and with a cached teacher, over the student's alone."""
    from septet.datamodules.coco import COCODetection
    from septet.lightning_modules.pkd import DetectionDistiller
    from septet.lightning_modules.pkd.supply import FeatureSupply

    args, note = _pair()
    data = COCODetection(synthetic=16, image_scale=(160, 120), batch_size=8, flip=0.0, seed=0)
    data.setup("fit")
    module = DetectionDistiller(**args)
    module.configure_model()
    module.student.train().to(device)
    module.student.data_preprocessor.to(device)
    optimizer = torch.optim.SGD(module.student.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        cached = FeatureSupply.with_cache(module.teachers, data, Path(folder), 1.0)
        live = FeatureSupply(module.teachers)

        def step(supply: FeatureSupply | None) -> None:
            module._supply = supply
            loss, _, prepared = module.student_loss(data.batch("train", range(8)))
            active = module.active(0) if supply is not None else []
            for levels in module.distill_losses(prepared, active).values():
                loss = loss + levels.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        calls = [lambda: step(None), lambda: step(live), lambda: step(cached)]
        alone, with_teacher, with_cache = _medians(calls, 5 if quick else 25, device)
    return [
        _row("step, live teacher", with_teacher, "s", "student only", alone, "reported", note),
        _row("step, cached teacher", with_cache, "s", "student only", alone, "<= 1.10", note),
    ]
