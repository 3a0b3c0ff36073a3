# ruff: noqa: ANN001, ANN202 (the compiler reads annotations of kernel arguments)
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The closed form on a GPU: one kernel reads both maps and leaves five numbers a channel, one writes the gradient.

Without it the eager version launches some forty small kernels a level. Formulas: ``closed_form``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit
def _statistics_kernel(student, teacher, out, channels, space, count, eps, min_std, BLOCK: tl.constexpr):
    """One program per channel c: loss, p, mean_s, q, mean_t into out[:, c]; ``count`` = N * space values."""
    c = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    sum_s = tl.zeros([BLOCK], tl.float32)
    sum_t = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        k = start + lane
        at = (k // space).to(tl.int64) * channels * space + c * space + k % space
        sum_s += tl.load(student + at, mask=k < count, other=0.0).to(tl.float32)
        sum_t += tl.load(teacher + at, mask=k < count, other=0.0).to(tl.float32)
    mean_s = tl.sum(sum_s, 0) / count
    mean_t = tl.sum(sum_t, 0) / count
    ss_lane = tl.zeros([BLOCK], tl.float32)
    tt_lane = tl.zeros([BLOCK], tl.float32)
    st_lane = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        k = start + lane
        at = (k // space).to(tl.int64) * channels * space + c * space + k % space
        ds = tl.where(k < count, tl.load(student + at, mask=k < count, other=0.0).to(tl.float32) - mean_s, 0.0)
        dt = tl.where(k < count, tl.load(teacher + at, mask=k < count, other=0.0).to(tl.float32) - mean_t, 0.0)
        ss_lane += ds * ds
        tt_lane += dt * dt
        st_lane += ds * dt
    ss = tl.sum(ss_lane, 0)
    tt = tl.sum(tt_lane, 0)
    st = tl.sum(st_lane, 0)
    std_s = tl.sqrt(ss / (count - 1))
    a = 1.0 / (std_s + eps)
    b = 1.0 / (tl.sqrt(tt / (count - 1)) + eps)
    loss = (a * a * ss + b * b * tt - 2.0 * a * b * st) / (2.0 * count)
    own = a * a * std_s * (1.0 - a * std_s) + a * a * b * st / (count - 1)
    scale = 1.0 / (channels * count)
    p = tl.where(std_s == 0.0, 0.0, own / tl.where(std_s == 0.0, 1.0, std_s)) * scale
    q = a * b * scale
    dead = std_s < min_std
    tl.store(out + c, tl.where(dead, 0.0, loss))
    tl.store(out + channels + c, tl.where(dead, 0.0, p))
    tl.store(out + 2 * channels + c, mean_s)
    tl.store(out + 3 * channels + c, tl.where(dead, 0.0, q))
    tl.store(out + 4 * channels + c, mean_t)


@triton.jit
def _gradient_kernel(student, teacher, stats, upstream, out, channels, space, BLOCK: tl.constexpr):
    """``upstream * (p (s - mean_s) - q (t - mean_t))`` for one block of one image's channel."""
    row = tl.program_id(0)
    c = row % channels
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = row.to(tl.int64) * space + k
    s = tl.load(student + at, mask=k < space, other=0.0).to(tl.float32)
    t = tl.load(teacher + at, mask=k < space, other=0.0).to(tl.float32)
    p = tl.load(stats + channels + c)
    mean_s = tl.load(stats + 2 * channels + c)
    q = tl.load(stats + 3 * channels + c)
    mean_t = tl.load(stats + 4 * channels + c)
    grad = (p * (s - mean_s) - q * (t - mean_t)) * tl.load(upstream)
    tl.store(out + at, grad.to(out.dtype.element_ty), mask=k < space)


def statistics(student: Tensor, teacher: Tensor, eps: float, min_std: float) -> Tensor:
    """Per-channel loss, p, mean_s, q, mean_t.

    Args:
        student: ``(N, C, H, W)`` contiguous float32, float16 or bfloat16.
        teacher: the same shape.
        eps: added to each standard deviation.
        min_std: channels of a smaller student deviation give zeros.

    Returns:
        ``(5, C)`` float32.
    """
    n, channels, height, width = student.shape
    out = torch.empty(5, channels, device=student.device, dtype=torch.float32)
    space = height * width
    _statistics_kernel[(channels,)](
        student, teacher, out, channels, space, n * space, eps, min_std, BLOCK=_BLOCK, num_warps=8
    )
    return out


def gradient(student: Tensor, teacher: Tensor, stats: Tensor, upstream: Tensor) -> Tensor:
    """Gradient of the loss for the student, in its dtype.

    Args:
        student: ``(N, C, H, W)`` contiguous.
        teacher: the same shape.
        stats: ``(5, C)`` of :func:`statistics`.
        upstream: incoming gradient, a float32 scalar.
    """
    n, channels, height, width = student.shape
    out = torch.empty_like(student)
    space = height * width
    block = min(_BLOCK, triton.next_power_of_2(space))
    grid = (n * channels, triton.cdiv(space, block))
    _gradient_kernel[grid](student, teacher, stats, upstream, out, channels, space, BLOCK=block, num_warps=4)
    return out
