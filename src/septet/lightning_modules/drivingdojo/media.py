"""Film strips, plots and mp4 files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from septet.kernels.egomotion import integrate_actions


def film_strip(rows: Sequence[Tensor], zoom: int = 2, gap: int = 2, labels: Sequence[str] = ()) -> np.ndarray:
    """Clips ``(T, 3, H, W)`` uint8 as rows of one picture ``(H', W', 3)`` uint8, with labels left of them."""
    lines = []
    for clip in rows:
        big = F.interpolate(clip.cpu().float(), scale_factor=float(zoom), mode="nearest").to(torch.uint8)
        padded = F.pad(big, (0, gap, 0, gap), value=255)
        lines.append(np.concatenate(list(padded.numpy().transpose(0, 2, 3, 1)), 1))
    width = max(line.shape[1] for line in lines)
    lines = [np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in lines]
    for n, label in enumerate(labels[: len(lines)]):
        lines[n] = np.concatenate([_label(label, lines[n].shape[0]), lines[n]], 1)
    return np.concatenate(lines, 0)


def _label(text: str, height: int, width: int = 64) -> np.ndarray:
    """Black words on white ``(height, width, 3)`` uint8."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).text((4, height // 2 - 6), text, fill="black")
    return np.asarray(picture)


def story_figure(real: Tensor, dreamed: Tensor, actions: Tensor, details: Sequence[Mapping[str, Any]]) -> Any:
    """Up to three clips: real above generated frames, and beside them the commanded and the estimated path.

    Args:
        real: ``(B, T, 3, H, W)`` uint8.
        dreamed: the same.
        actions: commands ``(B, T-1, 2)`` metres.
        details: rows of the AIF metric; without them only the command is drawn.
    """
    plt = _pyplot()
    count = min(3, len(real))
    shown = torch.linspace(0, real.shape[1] - 1, min(8, real.shape[1])).round().long()
    figure, axes = plt.subplots(count, 2, figsize=(13, 2.6 * count), width_ratios=(4, 1), squeeze=False)
    for n, (left, right) in enumerate(axes):
        left.imshow(film_strip([real[n].cpu()[shown], dreamed[n].cpu()[shown]]))
        left.set_ylabel("generated | real", fontsize=8)
        left.set_xticks([], [])
        left.set_yticks([], [])
        _draw_paths(right, details[n] if n < len(details) else {"commanded": actions[n].tolist()})
    axes[0, 0].set_title(f"frames {', '.join(str(int(i)) for i in shown)}", fontsize=8)
    axes[0, 1].legend(fontsize=7)
    figure.tight_layout()
    plt.close(figure)
    return figure


def _draw_paths(axis: Any, detail: Mapping[str, Any]) -> None:
    """Paths of one clip seen from above."""
    for name, style in (("commanded", "k-o"), ("estimated", "r--x")):
        if name not in detail:
            continue
        path = integrate_actions(torch.nan_to_num(torch.tensor(detail[name], dtype=torch.float64)))
        axis.plot(path[:, 1], path[:, 0], style, markersize=3, label=name)
    if "clip" in detail:
        axis.set_title(f"{detail['clip']}: {detail['status']} {detail['reason']}", fontsize=7)
    axis.set_xlabel("right (m)", fontsize=7)
    axis.set_ylabel("forward (m)", fontsize=7)
    axis.axis("equal")


def drift_figure(drifts: Mapping[str, Sequence[float]], blocks: Sequence[tuple[int, int]]) -> Any:
    """Drift over the blocks of a rollout: PSNR, colour, Frechet distance and, where known, E_x and E_y."""
    plt = _pyplot()
    labels = {
        "psnr": "PSNR (dB)",
        "colour": "colour drift (grey levels)",
        "frd_random": "frd_random",
        "ex": "E_x (m)",
        "ey": "E_y (m)",
    }
    panels = [k for k in labels if k in drifts]
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 2.8), squeeze=False)
    at = [f"{start}-{stop - 1}" for start, stop in blocks]
    for axis, key in zip(axes[0], panels, strict=True):
        axis.plot(at, drifts[key], "-o", markersize=3, label="model")
        if f"floor_{key}" in drifts:
            axis.plot(at, drifts[f"floor_{key}"], "--s", markersize=3, label="floor")
            axis.legend(fontsize=7)
        axis.set_title(labels[key], fontsize=8)
        axis.set_xlabel("frames", fontsize=8)
        axis.tick_params(labelsize=6)
    figure.tight_layout()
    plt.close(figure)
    return figure


def path_figure(details: Sequence[Mapping[str, Any]], columns: int = 4) -> Any:
    """Commanded and estimated paths of some clips."""
    plt = _pyplot()
    rows = -(-len(details) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3 * rows), squeeze=False)
    for axis, detail in zip(axes.flat, details, strict=False):
        _draw_paths(axis, detail)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    plt.close(figure)
    return figure


def curves_figure(
    curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, x: Sequence[float] | None = None
) -> Any:
    """Lines over a common axis."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.5))
    for name, values in curves.items():
        axis.plot(range(1, len(values) + 1) if x is None else x, values, "-o", markersize=3, label=name)
    if x is not None:
        axis.set_xscale("log")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.legend(fontsize=8)
    figure.tight_layout()
    plt.close(figure)
    return figure


def controls_figure(controls: Mapping[str, Mapping[str, float]], reasons: Mapping[str, str]) -> Any:
    """Table of E_x, E_y, mean step and coverage, and why clips were not scored: model, floor, static and shuffled."""
    plt = _pyplot()
    heads = {
        "ex": "E_x (m)", "ey": "E_y (m)", "mean_step": "mean step (m)", "coverage_clips": "clips scored (share)",
        "slope_forward": "slope forward", "corr_forward": "corr. forward", "corr_right": "corr. right",
    }  # fmt: skip
    cells = [[f"{values.get(k, float('nan')):.4f}" for k in heads] for values in controls.values()]
    cells = [[*line, reasons.get(name) or "–"] for name, line in zip(controls, cells, strict=True)]
    figure, axis = plt.subplots(figsize=(13, 0.4 * (len(cells) + 2)))
    axis.axis("off")
    table = axis.table(
        cellText=cells, rowLabels=list(controls), colLabels=[*heads.values(), "not scored"], loc="center"
    )
    table.auto_set_font_size(False)
    table.auto_set_column_width(list(range(len(heads) + 1)))
    plt.close(figure)
    return figure


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def write_mp4(path: Path, frames: Tensor, fps: float) -> Path:
    """Write ``(T, 3, H, W)`` uint8 as H.264 (sizes are padded to even numbers by repeating the border).

    Raises:
        ImportError: without PyAV.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("drivingdojo needs the video extra for mp4: pip install 'septet[video]'") from error
    from fractions import Fraction

    path.parent.mkdir(parents=True, exist_ok=True)
    images = frames.cpu().numpy().transpose(0, 2, 3, 1)
    images = np.pad(images, ((0, 0), (0, images.shape[1] % 2), (0, images.shape[2] % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14"}
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
