"""How a long rollout drifts: by second and at the seams of its chunks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of uint8 images over the last three dimensions, in [0, 1]."""
    return ((a.float() - b.float()) / 255).square().flatten(-3).mean(-1)


def decibel(error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors; average errors first: identical frames would outweigh all others."""
    return -10 * error.clamp_min(1e-10).log10()


def colour_drift(frames: Tensor, first: Tensor) -> Tensor:
    """Distance of a frame's mean colour to the first frame's, grey levels: ``(B, T, 3, H, W)`` -> ``(B, T)``."""
    result: Tensor = (frames.float().mean((-1, -2)) - first.float().mean((-1, -2)).unsqueeze(1)).norm(dim=-1)
    return result


def seam_jump(frames: Tensor, seams: Sequence[int]) -> float:
    """Mean frame difference at the seams over the median difference of all steps; 1 means invisible seams.

    Args:
        frames: ``(B, T, 3, H, W)`` uint8.
        seams: indices of first frames of chunks.

    Returns:
        The ratio, nan without seams.
    """
    if not seams:
        return float("nan")
    change = (frames[:, 1:].float() - frames[:, :-1].float()).abs().mean((2, 3, 4))
    at = change[:, [s - 1 for s in seams]].mean()
    return float(at / change.median().clamp_min(1e-6))


def chunk_seams(context: int, frames: int, total: int, reach: int) -> list[int]:
    """First new frames of every chunk after the first one, for nets that see ``frames`` at once."""
    if reach == 1:
        return []
    seams, count = [], min(frames, total)
    while count < total:
        seams.append(count)
        count += frames - min(reach, frames - 1)
    return [s for s in seams if s > context]


def blocks(context: int, frames: int, total: int, reach: int, fps: int) -> list[tuple[int, int]]:
    """Stretches ``[start, stop)`` of new frames whose drift is compared.

    The chunks of a whole-clip net; seconds for a next-frame net, which has no chunks.
    """
    if reach == 1:
        edges = [*range(context, total, max(1, fps)), total]
    else:
        edges = [context, *chunk_seams(context, frames, total, reach), total]
    return list(itertools.pairwise(edges))
