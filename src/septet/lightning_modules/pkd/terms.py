"""One distillation term over paired levels, with whatever it has to learn."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from septet.kernels.pearson import pkd_loss
from septet.lightning_modules.pkd.detectors import Geometry
from septet.lightning_modules.pkd.losses import FGDLoss, MGDLoss, cwd_loss, fitnet_loss
from septet.lightning_modules.pkd.pairing import pair_levels
from septet.lightning_modules.pkd.specs import LossSpec

_OPTIONS = {
    "pkd": {"resize", "eps", "min_std", "impl"},
    "fitnet": set(),
    "cwd": {"tau"},
    "mgd": {"alpha", "mask_ratio"},
    "fgd": {"temperature", "alpha", "beta", "gamma", "lam"},
}
_FUNCTIONS = {"pkd": pkd_loss, "fitnet": fitnet_loss, "cwd": cwd_loss}


class DistillTerm(nn.Module):
    """Loss of one :class:`LossSpec` for each pair of levels.

    Args:
        spec: what to compute.
        student: geometry of the student's tap.
        teacher: geometry of the teacher's tap.

    Raises:
        ValueError: unknown options, levels that cannot be paired, channel counts that differ without an adapter.
    """

    def __init__(self, spec: LossSpec, student: Geometry, teacher: Geometry) -> None:
        super().__init__()
        self.spec = spec
        self.options = dict(spec.options)
        adapter = self.options.pop("adapter", None)
        self._check_options(adapter)
        self.pairs = pair_levels(spec.pairs, student.strides, teacher.strides, levels=spec.levels)
        channels = [(student.channels[i], teacher.channels[j]) for i, j in self.pairs]
        self.adapters = nn.ModuleList()
        self.learned = nn.ModuleList()
        if spec.method == "mgd":
            self.learned.extend(MGDLoss(s, t, **self.options) for s, t in channels)
        elif spec.method == "fgd":
            self.learned.extend(FGDLoss(s, t, **self.options) for s, t in channels)
        elif adapter:
            self.adapters.extend(nn.Conv2d(s, t, 1) for s, t in channels)
        elif any(s != t for s, t in channels):
            raise ValueError(
                f"{spec.method} compares equal channel counts, got (student, teacher) {channels}; add an adapter "
                "(options: {adapter: conv1x1}) or choose mgd or fgd, which bring their own"
            )

    def _check_options(self, adapter: Any) -> None:
        method = self.spec.method
        unknown = set(self.options) - _OPTIONS[method]
        if unknown:
            raise ValueError(f"unknown options {sorted(unknown)} of {method}; it has {sorted(_OPTIONS[method])}")
        if adapter not in (None, "conv1x1") or (adapter and method in ("mgd", "fgd")):
            raise ValueError(f"unknown adapter {adapter!r} for {method}; conv1x1 is for pkd, fitnet and cwd")

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        boxes: Sequence[Tensor],
        frames: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Weighted loss of each pair, ``(pairs,)``.

        Args:
            student: tapped maps of the student.
            teacher: tapped maps of the teacher.
            boxes: ground truth of each image, ``(n, 4)`` xyxy pixels (FGD).
            frames: (height, width) of the padded batch for each image (FGD).

        Raises:
            ValueError: fewer levels than were paired.
        """
        losses = []
        for number, (i, j) in enumerate(self.pairs):
            if i >= len(student) or j >= len(teacher):
                raise ValueError(f"pair {(i, j)} of {len(student)} student and {len(teacher)} teacher levels")
            s, t = student[i], teacher[j]
            if self.adapters:
                s = self.adapters[number](s)
            losses.append(self._level(number, s, t, boxes, frames))
        return self.spec.weight * torch.stack(losses)

    def _level(self, number: int, s: Tensor, t: Tensor, boxes: Any, frames: Any) -> Tensor:
        method = self.spec.method
        if method in _FUNCTIONS:
            return _FUNCTIONS[method](s, t, **self.options)  # type: ignore[operator,no-any-return]
        extra = {"boxes": boxes, "frames": frames} if method == "fgd" else {}
        loss: Tensor = self.learned[number](s, t, **extra)
        return loss
