r"""The loss in closed form: two passes forward, one backward, nothing saved but per-channel numbers.

With ``a = 1/(sigma_s + eps)``, ``b = 1/(sigma_t + eps)`` and ``S = sum (s - mu_s)(t - mu_t)`` over m values:

    L     = mean over C of [(m-1)(a^2 sigma_s^2 + b^2 sigma_t^2) - 2 a b S] / (2 m)
    dL/ds = {[(m-1) a^2 sigma_s (1 - a sigma_s) + a^2 b S] (s-mu_s) / ((m-1) sigma_s) - a b (t-mu_t)} / (C m)
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_VALUES = 1 << 18
"""Values of one side handled at a time on a CPU: two temporaries of a megabyte stay in the cache."""


def _channels_per_chunk(maps: Tensor) -> int:
    channels = maps.shape[1]
    if maps.device.type != "cpu" or torch.compiler.is_compiling():
        return channels
    return max(1, min(channels, _CHUNK_VALUES * channels // maps.numel()))


def _centred(maps: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    return maps.to(dtype) - mean.view(1, -1, 1, 1)


def channel_moments(student: Tensor, teacher: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Means and centred products of each channel, in two passes (one pass fails at large offsets).

    Args:
        student: ``(N, C, H, W)``.
        teacher: ``(N, C, H, W)``.
        dtype: of the arithmetic, float32 or float64.

    Returns:
        ``mean_s, mean_t, ss, tt, st``, each ``(C,)``: ss, tt, st are sums of centred products.
    """
    step = _channels_per_chunk(student)
    parts = []
    for s, t in zip(torch.split(student, step, 1), torch.split(teacher, step, 1), strict=True):
        mean_s, mean_t = s.mean(dim=(0, 2, 3), dtype=dtype), t.mean(dim=(0, 2, 3), dtype=dtype)
        ds, dt = _centred(s, mean_s, dtype), _centred(t, mean_t, dtype)
        st = (ds * dt).sum(dim=(0, 2, 3))
        ss, tt = ds.square_().sum(dim=(0, 2, 3)), dt.square_().sum(dim=(0, 2, 3))
        parts.append((mean_s, mean_t, ss, tt, st))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _combine(student: Tensor, teacher: Tensor, p: Tensor, mean_s: Tensor, q: Tensor, mean_t: Tensor) -> Tensor:
    """``p (s - mean_s) - q (t - mean_t)`` per channel, in the student's dtype."""
    step = _channels_per_chunk(student)
    out = torch.empty_like(student)
    columns = (p, mean_s, q, mean_t)
    chunks = zip(*(torch.split(x, step, 1) for x in (out, student, teacher)), strict=True)
    for i, (target, s, t) in enumerate(chunks):
        cp, cs, cq, ct = (column[i * step : (i + 1) * step].view(1, -1, 1, 1) for column in columns)
        grad = (s.to(p.dtype) - cs).mul_(cp)
        target.copy_(grad.sub_((t.to(p.dtype) - ct).mul_(cq)))
    return out


def _statistics(student: Tensor, teacher: Tensor, eps: float, min_std: float, dtype: torch.dtype) -> Tensor:
    """Per-channel loss, p, mean_s, q, mean_t ``(5, C)``; the gradient is ``p (s - mean_s) - q (t - mean_t)``."""
    m, channels = student.numel() // student.shape[1], student.shape[1]
    mean_s, mean_t, ss, tt, st = channel_moments(student, teacher, dtype)
    std_s, std_t = (ss / (m - 1)).sqrt(), (tt / (m - 1)).sqrt()
    a, b = 1 / (std_s + eps), 1 / (std_t + eps)
    loss = (a.square() * ss + b.square() * tt - 2 * a * b * st) / (2 * m)
    own = a.square() * std_s * (1 - a * std_s) + a.square() * b * st / (m - 1)
    p = torch.where(std_s == 0, torch.zeros_like(std_s), own / std_s) / (channels * m)
    q = a * b / (channels * m)
    if min_std > 0:
        dead = std_s < min_std
        loss, p, q = (x.masked_fill(dead, 0.0) for x in (loss, p, q))
    return torch.stack([loss, p, mean_s, q, mean_t])


@functools.cache
def _triton() -> ModuleType | None:
    """The fused kernels; None where triton is absent."""
    try:
        return importlib.import_module("septet.kernels.pearson.triton")
    except ImportError:
        return None


def _fused(student: Tensor, teacher: Tensor, dtype: torch.dtype) -> ModuleType | None:
    """The fused kernels where they apply: contiguous maps on a CUDA device, float32 arithmetic, not compiling."""
    if student.device.type != "cuda" or dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    return _triton() if student.is_contiguous() and teacher.is_contiguous() else None


class PearsonLoss(torch.autograd.Function):
    """Autograd function of the closed form; the teacher gets no gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, eps: float, min_std: float, dtype: torch.dtype) -> Tensor:
        """Loss of one level, a scalar of ``dtype``; maps are ``(N, C, H, W)`` of any floating dtype."""
        fused = _fused(student, teacher, dtype)
        if fused is not None:
            stats: Tensor = fused.statistics(student, teacher, eps, min_std)
        else:
            stats = _statistics(student, teacher, eps, min_std, dtype)
        ctx.save_for_backward(student, teacher, stats)
        return stats[0].mean().clamp_min(0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """``dL/ds`` times the incoming gradient, in the student's dtype."""
        student, teacher, stats = ctx.saved_tensors
        fused = _fused(student, teacher, stats.dtype)
        if fused is not None:
            return fused.gradient(student, teacher, stats, grad), None, None, None, None
        _, p, mean_s, q, mean_t = stats
        return _combine(student, teacher, p * grad, mean_s, q * grad, mean_t), None, None, None, None
