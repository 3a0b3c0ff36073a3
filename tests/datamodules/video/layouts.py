"""Native layouts written from simulated clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from septet.datamodules.video import ClipSample, StreetSimulator
from septet.datamodules.video.decode import write_video


def write_dojo(root: Path, clips: int = 3, frames: int = 9, size: tuple[int, int] = (64, 128)) -> dict[str, object]:
    """Clips of different vehicles as DrivingDojo stores them; returns the simulated samples by clip id."""
    renderer = StreetSimulator(*size, supersample=1)
    samples = {}
    for number in range(clips):
        name = f"{number:06d}_s20-{number}_171000000{number}.0_171000001{number}.0"
        sample = renderer.clip(100 + number, frames)
        images, actions = root / "videos" / name, root / "action_info" / name
        images.mkdir(parents=True)
        actions.mkdir(parents=True)
        for t, frame in enumerate(sample.frames.numpy()):
            picture = Image.fromarray(frame.transpose(1, 2, 0))
            picture.save(images / f"{10 * t:04d}_CameraFpgaP0H120.jpg", quality=95)
            if t < frames - 1:
                forward, right = sample.actions[t].tolist()
                line = str(np.array([right, 0.0, forward])) + "\n"
                (actions / f"{10 * t:04d}_next_frame_position_at_current_camera.txt").write_text(line)
        samples[name] = sample
    meta = {next(iter(samples)): {"description": {"type": ["turn"], "tag": "", "remark": "a turn"}}}
    (root / "meta.json").write_text(json.dumps(meta))
    return samples


def write_own(
    root: Path, name: str = "a", header: str = "forward,right", rows: Sequence[str] | None = None, frames: int = 4,
    video: bool = False, seed: int = 0, size: tuple[int, int] = (32, 64),
) -> ClipSample:  # fmt: skip
    """A clip as users store their own: ``<name>/0000.png ..`` or ``<name>.mp4``, and ``<name>.csv``."""
    clip = StreetSimulator(*size, supersample=1).clip(seed, frames)
    root.mkdir(exist_ok=True)
    if video:
        write_video(root / f"{name}.mp4", clip.frames.numpy(), 5, codec="libx264")
    else:
        (root / name).mkdir(exist_ok=True)
        for t, frame in enumerate(clip.frames.numpy()):
            Image.fromarray(frame.transpose(1, 2, 0)).save(root / name / f"{t:04d}.png")
    lines = [",".join(f"{v:.6f}" for v in a) for a in clip.actions.tolist()] if rows is None else rows
    (root / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    return clip
