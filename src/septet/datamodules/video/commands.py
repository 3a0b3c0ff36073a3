"""``septet data verify|fetch|prepare|generate video``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from septet.datamodules.video.datamodule import SOURCES, open_reader
from septet.datamodules.video.simulator import StreetSimulator


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action; errors of the user are ValueError or FileNotFoundError."""
    actions: dict[str, Callable[[argparse.ArgumentParser, Sequence[str]], int]] = {
        "verify": _verify,
        "fetch": _fetch,
        "prepare": _prepare,
        "generate": _generate,
    }
    if action not in actions:
        raise ValueError(f"unknown action {action!r}: choose one of {', '.join(actions)}")
    return actions[action](argparse.ArgumentParser(prog=f"septet data {action} video"), argv)


def _recorded(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=[s for s in SOURCES if s != "simulator"])
    parser.add_argument("root", type=Path)


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Read every clip's motions and all its frames; 1 if anything is broken or left out."""
    _recorded(parser)
    given = parser.parse_args(argv)
    reader = open_reader(given.source, given.root)
    broken = 0
    for clip in reader.clips:
        try:
            height, width = reader.check(clip)
            actions, _ = reader.motion(clip)
            mean = f"mean step {float(actions.norm(dim=1).mean()):.3f} m" if len(actions) else "no step"
            print(f"{clip}: {reader.length(clip)} frames of {width}x{height}, {mean}")
        except (ValueError, OSError) as error:
            broken += 1
            print(f"{clip}: BROKEN: {error}")
    for line in reader.skipped:
        print(f"LEFT OUT: {line}")
    total = len(reader.clips) + len(reader.skipped)
    print(f"{len(reader.clips) - broken} of {total} clips are whole")
    return 1 if broken or reader.skipped else 0


def _fetch(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Say where the data come from: all of it is gated, licensed or large."""
    parser.parse_args(argv)
    print(
        "DrivingDojo: gated, accept its licence on the hub (Yuqi1997/DrivingDojo, -Extra1..5, 1.7 TB; mini set\n"
        "jiaweihe/DrivingDojo-mini) and unpack it so that <root>/videos and <root>/action_info lie side by side.\n"
        "comma2k19: commaai/comma2k19 (MIT), 10 chunks of 10 GB. KITTI odometry: cvlibs.net (CC BY-NC-SA 3.0).\n"
        "Then: septet data verify video <source> <root>"
    )
    return 0


def _prepare(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Decode and resize every clip once into a cache that ``VideoClips(cache_dir=...)`` maps."""
    _recorded(parser)
    parser.add_argument("--cache_dir", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128), metavar=("H", "W"))
    given = parser.parse_args(argv)
    from septet.datamodules.video.datasets import RecordedClips

    reader = open_reader(given.source, given.root)
    clips = RecordedClips(reader, reader.clips, 1, 1, tuple(given.size), seed=None, cache_dir=given.cache_dir)
    for index, clip in enumerate(reader.clips):
        clips[index]
        print(f"{index + 1}/{len(clips)} {clip}")
    return 0


def _generate(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Render simulated clips as a folder for ``FolderReader``, or video.hevc for a comma2k19 segment's poses."""
    parser.add_argument("out", type=Path, help="folder to write; with --along the segment that receives video.hevc")
    parser.add_argument("--along", action="store_true", help="drive the poses of the comma2k19 segment in OUT")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=None)
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    if given.clips < 1:
        raise ValueError(f"--clips {given.clips} is below 1")
    if given.frames is not None and given.frames < 2:
        raise ValueError(f"--frames {given.frames}: a clip with a motion has at least 2")
    if given.along:
        return render_segment(given.out, given.frames, tuple(given.size or (218, 290)), given.seed)
    renderer = StreetSimulator(*(given.size or (32, 64)))
    for number in range(given.clips):
        sample = renderer.clip(given.seed + number, given.frames or 8)
        name = f"sim{number:05d}"
        _write_images(given.out / name, sample.frames.numpy())
        assert sample.yaw is not None
        rows = np.column_stack([sample.actions.numpy(), sample.yaw.numpy()])
        lines = ["forward,right,yaw", *(",".join(f"{v:.9g}" for v in row) for row in rows)]
        (given.out / f"{name}.csv").write_text("\n".join(lines) + "\n")
        camera = {"fps": sample.fps, "model": "PINHOLE", "params": list(renderer.camera.params)}
        camera |= {"width": renderer.width, "height": renderer.height}
        (given.out / f"{name}.json").write_text(json.dumps(camera))
    print(f"{given.clips} clips in {given.out}: read them with source 'folder'")
    return 0


def render_segment(root: Path, frames: int | None, size: tuple[int, int], seed: int) -> int:
    """Drive the simulator along a comma2k19 segment and write ``video.hevc`` beside its poses.

    Args:
        root: segment with ``global_pose``; an existing ``video.hevc`` is never overwritten.
        frames: of the poses, from the start; None takes all. ``video.frames`` then says how many the video has.
        size: (H, W), even.
        seed: of the scene.

    Raises:
        ValueError: if there is a video already, or for an odd size or one below 64.
    """
    from septet.datamodules.video.decode import write_video
    from septet.datamodules.video.readers import Comma2k19Reader

    if (root / "video.hevc").exists():
        raise ValueError(f"{root / 'video.hevc'} exists: it is not overwritten")
    if size[0] % 2 or size[1] % 2 or min(size) < 64:
        raise ValueError(f"size={size}: both must be even and at least 64")
    (root / "video.frames").unlink(missing_ok=True)
    reader = Comma2k19Reader(root)
    actions, yaw = reader.motion(reader.clips[0], 0, frames)
    clip = StreetSimulator(*size, fov_deg=65.2, supersample=1, fps=20).clip(seed, actions=actions, yaw=yaw)
    write_video(root / "video.hevc", clip.frames.numpy(), 20, container_format="hevc")
    if frames is not None:
        (root / "video.frames").write_text(f"{len(clip.frames)}\n")
    print(f"{len(clip.frames)} frames along {root.name} in {root / 'video.hevc'}")
    return 0


def _write_images(folder: Path, frames: np.ndarray) -> None:
    """Frames as numbered PNG files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.transpose(1, 2, 0)).save(folder / f"{number:05d}.png")


__all__ = ["main", "render_segment"]
