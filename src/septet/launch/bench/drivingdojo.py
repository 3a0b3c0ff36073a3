"""``septet bench drivingdojo``: decoding, a training step, sampling latency and AIF throughput."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet.datamodules.video import StreetSimulator
from septet.lightning_modules.drivingdojo import WorldModel


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of all parts; CPU seconds where ``device`` is cpu, wall seconds on a GPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _decode_rows(quick) + _train_rows(device, quick) + _sampling_rows(device, quick)
        return rows + _aif_rows(quick)
    finally:
        torch.set_num_threads(threads)


def _row(name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "value": value, "unit": unit, "peer": "", "peer_value": None, "ratio": None, "limit": ""}
    return base | {"note": ""} | more


def _median(work: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """Median seconds of a call: CPU time, or wall time between synchronisations on a GPU."""
    work()
    times = []
    for _ in range(repeats):
        if device == "cpu":
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        else:
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _decode_rows(quick: bool) -> list[dict[str, Any]]:
    """1080p JPEG to 576x320: ours against a full Pillow decode and resize, the official reader's way."""
    from PIL import Image

    from septet.datamodules.video.decode import read_image

    frame = StreetSimulator(1080, 1920, supersample=1).clip(0, 1).frames[0].numpy().transpose(1, 2, 0)
    noisy = frame + np.random.default_rng(0).normal(0, 4, frame.shape)
    repeats = 3 if quick else 15
    rows = []
    for name, size in (("1080p", (1920, 1080)), ("576x320", (576, 320))):
        buffer = io.BytesIO()
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).resize(size)
        picture.save(buffer, format="JPEG", quality=90)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.jpg"
            path.write_bytes(buffer.getvalue())
            ours = _median(partial(read_image, path, (320, 576)), repeats)
            theirs = _median(partial(_official_read, path), repeats)
            gap = np.abs(read_image(path, (320, 576)).astype(int) - _official_read(path).transpose(2, 0, 1).astype(int))
        rows.append(
            _row(
                f"decode {name} JPEG to 576x320", 1 / ours, "frames/CPU s", peer_value=1 / theirs, ratio=theirs / ours,
                peer="Pillow decode + resize (official reader's way)",
                limit="JPEG decoding itself" if name == "576x320" else "aim >= 3x",
                note=f"mean absolute pixel difference {gap.mean():.2f}, largest {gap.max()}",
            )
        )  # fmt: skip
    return rows


def _official_read(path: Path) -> np.ndarray:
    """Full decode and Pillow's default resize."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((576, 320)))


def _cases(device: str) -> list[tuple[str, dict[str, Any], int]]:
    """Name, settings and batch of the models that are timed; ``small`` on a GPU only."""
    cases: list[tuple[str, dict[str, Any], int]] = [("tiny, 7 pairs of 32x64", {"size": "tiny"}, 1)]
    small = {"size": "small", "frame_size": (64, 128), "frames": 16}
    if device != "cpu":
        for batch in (1, 2, 4):
            cases.append((f"small, 16 frames of 64x128, batch {batch}", small, batch))
            saving = small | {"gradient_checkpointing": True}
            cases.append((f"small, 16 frames of 64x128, batch {batch}, checkpointing", saving, batch))
    return cases


def _clip(model: WorldModel, batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (batch, model.frames, 3, *model.frame_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device), torch.rand(
        batch, model.frames - 1, 2, device=device
    )


def _train_rows(device: str, quick: bool) -> list[dict[str, Any]]:
    """Forward, backward and AdamW; bf16 on a GPU."""
    rows = []
    for name, settings, batch in _cases(device):
        model = WorldModel(**settings)
        model.configure_model()
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters())
        frames, actions = _clip(model, batch, device)

        def step(model: WorldModel = model, optimizer: Any = optimizer, clip: Any = (frames, actions)) -> None:
            optimizer.zero_grad()
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
                loss = model.loss(*clip)
            loss.backward()
            optimizer.step()

        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        seconds = _median(step, 3 if quick else 7, device)
        note = (
            "float32, one thread"
            if device == "cpu"
            else f"bf16, peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        )
        rows.append(_row(f"train step: {name}", seconds, "CPU s" if device == "cpu" else "s", note=note))
    return rows


def _sampling_rows(device: str, quick: bool) -> list[dict[str, Any]]:
    """Milliseconds per dreamed frame, and until the first frame of a stream."""
    rows = []
    for name, settings, batch in _cases(device):
        if batch > 1 or "checkpointing" in name:
            continue
        model = WorldModel(**settings).eval()
        model.configure_model()
        model.to(device)
        frames, actions = _clip(model, 1, device)
        for method, steps in (("euler", 4),) if quick else (("euler", 4), ("euler", 8), ("heun", 4), ("dpmpp_2m", 4)):
            seconds = _median(
                partial(model.generate, frames[:, :1], actions, method=method, steps=steps),
                2 if quick else 5, device,
            )  # fmt: skip
            rows.append(_row(f"dream: {name}, {method} {steps}", 1000 * seconds / actions.shape[1], "ms/frame"))
        first = _median(partial(_first_frame, model, frames[:, :1], actions[0]), 2 if quick else 5, device)
        rows.append(_row(f"first frame of a stream: {name}", 1000 * first, "ms"))
    return rows


def _first_frame(model: WorldModel, first: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The first frame of a stream."""
    return next(model.dream(first, actions))


def _aif_rows(quick: bool) -> list[dict[str, Any]]:
    """Clips per CPU minute of the estimators."""
    from septet.lightning_modules.drivingdojo.trajectory import (
        InverseDynamicsEstimator,
        OpenCVEstimator,
        PycolmapEstimator,
    )

    small = StreetSimulator().clip(0)
    learned = InverseDynamicsEstimator()
    seconds = _median(lambda: learned.estimate(small.frames, small.camera), 3 if quick else 10)
    rows = [_row("AIF: inverse dynamics, 8 frames of 32x64", 60 / seconds, "clips/CPU min")]
    if quick:
        return rows
    actions = torch.tensor([[0.8, 0.01]]).repeat(11, 1)
    clip = StreetSimulator(160, 288, supersample=1).clip(1, actions=actions)
    for name, estimator in (
        ("OpenCV", OpenCVEstimator()),
        ("pycolmap global, sequential:10", PycolmapEstimator(matcher="sequential:10", max_features=2048)),
        ("pycolmap incremental, sequential:10", PycolmapEstimator("incremental", "sequential:10", 2048)),
    ):
        seconds = _median(partial(estimator.estimate, clip.frames, clip.camera), 1)
        rows.append(_row(f"AIF: {name}, 12 frames of 160x288", 60 / seconds, "clips/CPU min", note="one thread"))
    return rows
