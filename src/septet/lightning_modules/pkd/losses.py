"""Feature-distillation baselines: FitNet, CWD, MGD, FGD. Maps are ``(N, C, H, W)``; the teacher gets no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def _check(student: Tensor, teacher: Tensor, *, channels: bool = True) -> None:
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f"feature maps must be 4-D (N, C, H, W), got {shapes}")
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise ValueError(f"feature maps must be floating point, got {student.dtype} and {teacher.dtype}")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f"batch sizes differ: {shapes}")
    if channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f"channel counts differ: {shapes}; add an adapter (options: {{adapter: conv1x1}})")
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"sizes differ: {shapes}; this loss resizes nothing: pair equal strides (pairs: stride)")
    if min(student.shape) == 0:
        raise ValueError(f"a feature map is empty: {shapes}")


def _read(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the arithmetic's dtype, the teacher detached."""
    dtype = torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32
    return student.to(dtype), teacher.detach().to(dtype)


def fitnet_loss(student: Tensor, teacher: Tensor, *, weight: float = 1.0) -> Tensor:
    """Mean squared difference (FitNets, ICLR 2015).

    Raises:
        ValueError: shapes that differ.
    """
    _check(student, teacher)
    s, t = _read(student, teacher)
    return weight * (s - t).square().mean()


def cwd_loss(student: Tensor, teacher: Tensor, *, tau: float = 1.0, weight: float = 1.0) -> Tensor:
    """Channel-wise distillation (ICCV 2021): KL divergence of each channel's spatial softmax.

    ``weight tau^2 / (N C) sum phi_t (log phi_t - log phi_s)``.

    Raises:
        ValueError: shapes that differ, ``tau`` not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    _check(student, teacher)
    s, t = _read(student, teacher)
    log_s = functional.log_softmax(s.flatten(2) / tau, dim=2)
    log_t = functional.log_softmax(t.flatten(2) / tau, dim=2)
    total = (log_t.exp() * (log_t - log_s)).sum()
    return weight * tau**2 * total / (s.shape[0] * s.shape[1])


def _align(student_channels: int, teacher_channels: int) -> nn.Module | None:
    return nn.Conv2d(student_channels, teacher_channels, 1) if student_channels != teacher_channels else None


class MGDLoss(nn.Module):
    """Masked generative distillation (ECCV 2022): rebuild the teacher's map from a masked student map.

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map; a 1x1 convolution ``align`` is added where they differ.
        alpha: weight, on the sum of squares over the batch size.
        mask_ratio: share of cells masked out.

    Raises:
        ValueError: ``mask_ratio`` outside 0 .. 1.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, alpha: float = 2e-5, mask_ratio: float = 0.65
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio is the share masked out, 0 to 1, got {mask_ratio}")
        self.alpha, self.mask_ratio = alpha, mask_ratio
        self.align = _align(student_channels, teacher_channels)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(
        self, student: Tensor, teacher: Tensor, *, keep: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Loss of one level.

        Args:
            student: ``(N, Cs, H, W)``.
            teacher: ``(N, Ct, H, W)``.
            keep: ``(N, 1, H, W)``, 1 where a cell is kept; drawn where not given.
            generator: of the draw.
        """
        _check(student, teacher, channels=self.align is None)
        s, t = _read(student, teacher)
        with torch.autocast(s.device.type, enabled=False):
            s = s if self.align is None else self.align(s)
            if keep is None:
                draw = torch.rand((s.shape[0], 1, *s.shape[2:]), generator=generator, device=s.device)
                keep = draw < 1 - self.mask_ratio
            rebuilt = self.generation(s * keep.to(s.dtype))
        total: Tensor = (rebuilt - t).square().sum()
        return total * (self.alpha / s.shape[0])


def _spatial_attention(maps: Tensor, temperature: float) -> Tensor:
    """``(N, H, W)``, mean 1."""
    energy = maps.abs().mean(dim=1).flatten(1) / temperature
    weights: Tensor = energy.softmax(dim=1).view(maps.shape[0], *maps.shape[2:])
    return weights * maps[0, 0].numel()


def _channel_attention(maps: Tensor, temperature: float) -> Tensor:
    """``(N, C)``, mean 1."""
    return (maps.abs().mean(dim=(2, 3)) / temperature).softmax(dim=1) * maps.shape[1]


def box_masks(
    boxes: Sequence[Tensor], frames: Sequence[tuple[int, int]], size: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Foreground weights (1 over the box's cells, maximum over boxes) and background weights (1 over their count).

    Args:
        boxes: of each image, ``(n, 4)`` xyxy pixels.
        frames: (height, width) in pixels that the map spans (the padded batch).
        size: (height, width) of the map.

    Returns:
        Two lists of ``(H, W)`` float32.
    """
    height, width = size
    foregrounds, backgrounds = [], []
    for image_boxes, (frame_h, frame_w) in zip(boxes, frames, strict=True):
        scale = image_boxes.new_tensor([width / frame_w, height / frame_h] * 2, dtype=torch.float32)
        cells = image_boxes.float() * scale
        low, high = cells[:, :2].floor().int().tolist(), cells[:, 2:].ceil().int().tolist()
        front = torch.zeros(height, width, device=image_boxes.device)
        for (w1, h1), (w2, h2) in zip(low, high, strict=True):
            region = front[max(h1, 0) : h2 + 1, max(w1, 0) : w2 + 1]
            region.clamp_(min=1.0 / ((h2 - h1 + 1) * (w2 - w1 + 1)))
        back = (front == 0).float()
        foregrounds.append(front)
        backgrounds.append(back / back.sum().clamp_min(1.0))
    return foregrounds, backgrounds


class FGDLoss(nn.Module):
    """Focal and global distillation (CVPR 2022).

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map; a 1x1 convolution ``align`` is added where they differ.
        temperature: of the attention maps.
        alpha: weight of foreground cells.
        beta: weight of background cells.
        gamma: weight of the attention difference.
        lam: weight of the global relation.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        temperature: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 1e-3,
        lam: float = 5e-6,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature, self.alpha, self.beta, self.gamma, self.lam = temperature, alpha, beta, gamma, lam
        self.align = _align(student_channels, teacher_channels)
        for side in "st":
            mask = nn.Conv2d(teacher_channels, 1, 1)
            nn.init.kaiming_normal_(mask.weight, mode="fan_in")
            self.add_module(f"conv_mask_{side}", mask)
            self.add_module(f"channel_add_conv_{side}", _bottleneck(teacher_channels))

    def _relation(self, maps: Tensor, side: str) -> Tensor:
        """Global context block ``R(x) = x + W2 ReLU(LN(W1 z))``, ``z = sum softmax(w_k x) x``."""
        weights = self.get_submodule(f"conv_mask_{side}")(maps).flatten(2).softmax(dim=2)
        context = (maps.flatten(2) * weights).sum(dim=2)[..., None, None]
        added: Tensor = self.get_submodule(f"channel_add_conv_{side}")(context)
        return maps + added

    def forward(
        self, student: Tensor, teacher: Tensor, *, boxes: Sequence[Tensor], frames: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Loss of one level.

        Args:
            student: ``(N, Cs, H, W)``.
            teacher: ``(N, Ct, H, W)``.
            boxes: ground truth of each image, ``(n, 4)`` xyxy pixels.
            frames: (height, width) of the padded batch, for each image.

        Raises:
            ValueError: numbers of boxes or frames other than N, shapes that differ.
        """
        _check(student, teacher, channels=self.align is None)
        if not len(boxes) == len(frames) == student.shape[0]:
            raise ValueError(f"{len(boxes)} box lists and {len(frames)} frames for a batch of {student.shape[0]}")
        s, t = _read(student, teacher)
        with torch.autocast(s.device.type, enabled=False):
            s = s if self.align is None else self.align(s)
            relation = (self._relation(s, "s") - self._relation(t, "t")).square().sum()
            local, attention = self._focal(s, t, boxes, frames)
        return (local + self.gamma * attention + self.lam * relation) / s.shape[0]

    def _focal(
        self, s: Tensor, t: Tensor, boxes: Sequence[Tensor], frames: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Weighted foreground plus background term, and the unweighted attention difference."""
        space_s, space_t = _spatial_attention(s, self.temperature), _spatial_attention(t, self.temperature)
        channel_s, channel_t = _channel_attention(s, self.temperature), _channel_attention(t, self.temperature)
        front, back = (torch.stack(x).to(s) for x in box_masks(boxes, frames, (s.shape[2], s.shape[3])))
        cells = (self.alpha * front + self.beta * back) * space_t
        local = (cells[:, None] * channel_t[..., None, None] * (s - t).square()).sum()
        attention = (channel_s - channel_t).abs().sum() + (space_s - space_t).abs().sum()
        return local, attention


def _bottleneck(channels: int) -> nn.Sequential:
    """``W1``, layer norm, ReLU, ``W2``, the last starting at zero."""
    hidden = channels // 2
    last = nn.Conv2d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True), last)
