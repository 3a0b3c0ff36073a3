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
    """Rows of all parts in CPU seconds; on a GPU those of ``drivingdojo_gpu`` in wall seconds."""
    if device != "cpu":
        from septet.launch.bench import drivingdojo_gpu

        return drivingdojo_gpu.rows(device, quick)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _decode_rows(quick) + _train_rows(quick) + _sampling_rows(quick)
        return rows + _aif_rows(quick)
    finally:
        torch.set_num_threads(threads)


def _row(name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "value": value, "unit": unit, "peer": "", "peer_value": None, "ratio": None, "limit": ""}
    return base | {"note": ""} | more


def _median(work: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
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


def _tiny() -> tuple[WorldModel, torch.Tensor, torch.Tensor]:
    """``tiny`` with a random clip of 8 frames and its motions."""
    model = WorldModel(size="tiny")
    model.configure_model()
    shape = (1, model.frames, 3, *model.frame_size)
    return model, torch.randint(0, 256, shape, dtype=torch.uint8), torch.rand(1, model.frames - 1, 2)


def _train_rows(quick: bool) -> list[dict[str, Any]]:
    """Forward, backward and AdamW."""
    model, frames, actions = _tiny()
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model.loss(frames, actions).backward()
        optimizer.step()

    seconds = _median(step, 3 if quick else 7)
    return [_row("train step: tiny, 7 pairs of 32x64", seconds, "CPU s", note="float32, one thread")]


def _sampling_rows(quick: bool) -> list[dict[str, Any]]:
    """Milliseconds per dreamed frame, and until the first frame of a stream."""
    model, frames, actions = _tiny()
    rows, name = [], "tiny, 7 pairs of 32x64"
    model.eval()
    for method, steps in (("euler", 4),) if quick else (("euler", 4), ("euler", 8), ("heun", 4), ("dpmpp_2m", 4)):
        seconds = _median(
            partial(model.generate, frames[:, :1], actions, method=method, steps=steps), 2 if quick else 5
        )
        rows.append(_row(f"dream: {name}, {method} {steps}", 1000 * seconds / actions.shape[1], "ms/frame"))
    first = _median(partial(_first_frame, model, frames[:, :1], actions[0]), 2 if quick else 5)
    return [*rows, _row(f"first frame of a stream: {name}", 1000 * first, "ms")]


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
