"""Checks, resizing and the sum over feature-pyramid levels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from septet.kernels.pearson.closed_form import PearsonLoss, channel_moments
from septet.kernels.pearson.reference import reference_loss

_RESIZE = ("student", "teacher", "never")
_IMPLS = ("closed_form", "reference")


def _check_pair(student: Tensor, teacher: Tensor) -> None:
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f"feature maps must be 4-D (N, C, H, W), got {shapes}")
    for side, maps in (("student", student), ("teacher", teacher)):
        if not maps.is_floating_point():
            raise ValueError(f"the {side}'s feature map must be floating point, got {maps.dtype}")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f"batch sizes differ: {shapes}; feed both networks the same batch")
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(f"channel counts differ: {shapes}; add an adapter (options: {{adapter: conv1x1}})")


def _check_comparable(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        sizes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise ValueError(f"sizes differ: {sizes}; resize one side (resize='student' or 'teacher')")
    values = student.shape[0] * student.shape[2] * student.shape[3]
    if values < 2 or student.shape[1] == 0:
        raise ValueError(f"a correlation needs at least 2 values a channel, got {tuple(student.shape)}")


def _check_options(eps: float, min_std: float, impl: str) -> None:
    if impl not in _IMPLS:
        raise ValueError(f"unknown impl {impl!r}; choose from {', '.join(_IMPLS)}")
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, got {eps}")
    if not min_std >= 0:
        raise ValueError(f"min_std must be >= 0, got {min_std}")


def _compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 when a side is float64, else float32 (half and bfloat16 are read as float32)."""
    return torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32


def _resized(student: Tensor, teacher: Tensor, resize: str) -> tuple[Tensor, Tensor]:
    """Bring one side to the other's height and width (bilinear, half-pixel centres, no antialias)."""
    if student.shape[2:] == teacher.shape[2:] or resize == "never":
        return student, teacher
    if min(*student.shape[2:], *teacher.shape[2:]) == 0:
        raise ValueError(f"a feature map is empty: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    dtype = _compute_dtype(student, teacher)
    if resize == "student":
        return functional.interpolate(student.to(dtype), tuple(teacher.shape[2:]), mode="bilinear"), teacher
    return student, functional.interpolate(teacher.to(dtype), tuple(student.shape[2:]), mode="bilinear")


def _loss(student: Tensor, teacher: Tensor, eps: float, min_std: float, impl: str) -> Tensor:
    dtype = _compute_dtype(student, teacher)
    if impl == "reference":
        return reference_loss(student.to(dtype), teacher.to(dtype), eps, min_std)
    loss: Tensor = PearsonLoss.apply(student, teacher, eps, min_std, dtype)  # type: ignore[no-untyped-call]
    return loss


def pearson_loss(
    student: Tensor, teacher: Tensor, *, eps: float = 1e-6, min_std: float = 0.0, impl: str = "closed_form"
) -> Tensor:
    """Pearson loss of one pair of maps of equal size: 0 (linear) .. 1 (unrelated) .. 2 (opposed).

    Args:
        student: ``(N, C, H, W)``, any floating dtype; arithmetic is float32 (float64 for float64 maps).
        teacher: ``(N, C, H, W)``; receives no gradient.
        eps: added to each standard deviation.
        min_std: student channels with a smaller standard deviation are left out (loss and gradient 0); the mean
            still runs over all channels.
        impl: ``"closed_form"`` (nothing saved but per-channel numbers) or ``"reference"`` (eager autograd).

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: shapes that cannot be compared, fewer than two values a channel, an unknown option.

    Example:
        >>> import torch
        >>> maps = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> round(pearson_loss(maps, -maps).item(), 4)  # (m - 1) / m * (1 - r) with m = 12, r = -1
        1.8333
    """
    _check_options(eps, min_std, impl)
    _check_pair(student, teacher)
    _check_comparable(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        return _loss(student, teacher.detach(), eps, min_std, impl)


def _as_levels(maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [maps] if isinstance(maps, Tensor) else list(maps)


def pkd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    weight: float = 1.0,
    resize: str = "student",
    eps: float = 1e-6,
    min_std: float = 0.0,
    impl: str = "closed_form",
) -> Tensor:
    """Weighted sum of the Pearson loss over levels, not divided by their number (equation 6).

    Args:
        student: one map ``(N, C, H, W)`` or one for each level.
        teacher: the same number of maps with the same N and C; sizes may differ.
        weight: multiplies each level (alpha of the paper).
        resize: which side takes the other's size where they differ: ``"student"``, ``"teacher"`` or ``"never"``.
        eps: see :func:`pearson_loss`.
        min_std: see :func:`pearson_loss`.
        impl: see :func:`pearson_loss`.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: as :func:`pearson_loss`, or if the numbers of levels differ or are zero.
    """
    _check_options(eps, min_std, impl)
    if resize not in _RESIZE:
        raise ValueError(f"unknown resize {resize!r}; choose from {', '.join(_RESIZE)}")
    ours, theirs = _as_levels(student), _as_levels(teacher)
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"the student has {len(ours)} levels, the teacher {len(theirs)}: pair them first (not zero)")
    losses = []
    for s, t in zip(ours, theirs, strict=True):
        _check_pair(s, t)
        with torch.autocast(s.device.type, enabled=False):
            s, t = _resized(s, t.detach(), resize)
            _check_comparable(s, t)
            losses.append(_loss(s, t, eps, min_std, impl))
    return weight * torch.stack(losses).sum()


def pearson_r(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson correlation of each channel over batch and space.

    Args:
        student: ``(N, C, H, W)``.
        teacher: ``(N, C, H, W)``.

    Returns:
        ``(C,)`` float32 (float64 for float64 maps); 0 where a side is constant (its maximum equals its minimum).

    Raises:
        ValueError: as :func:`pearson_loss`.
    """
    _check_pair(student, teacher)
    _check_comparable(student, teacher)
    student, teacher = student.detach(), teacher.detach()
    _, _, ss, tt, st = channel_moments(student, teacher, _compute_dtype(student, teacher))
    r = st / (ss.sqrt() * tt.sqrt())
    for maps in (student, teacher):
        r = torch.where(maps.amax(dim=(0, 2, 3)) == maps.amin(dim=(0, 2, 3)), torch.zeros_like(r), r)
    return r.clamp(-1.0, 1.0)
