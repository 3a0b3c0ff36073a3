"""Prove before training that both networks really loaded and fit together."""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from septet.kernels.pearson import pearson_r
from septet.lightning_modules.pkd.checkpoints import LoadReport
from septet.lightning_modules.pkd.curves import gradient_share
from septet.lightning_modules.pkd.detectors import num_classes, probe, to_coco
from septet.lightning_modules.pkd.metrics import CocoBoxAP
from septet.lightning_modules.pkd.preprocess import Normalisation
from septet.lightning_modules.task import rng_state, set_rng_state

_DEAD_STD = 1e-4
_DEAD_SHARE = 0.05
_LARGEST_RATIO = 1e5
"""A gradient ratio above it says that the detection loss does not reach the level yet, not how much larger KD is."""


def _ratio_text(ratio: float | None) -> str:
    """A gradient ratio for the terminal."""
    if ratio is None:
        return "-"
    return f"{ratio:.3g}" if ratio <= _LARGEST_RATIO else "- (detection gradient ~ 0)"


@dataclass
class LevelReport:
    """First-batch figures of one paired level.

    Attributes:
        pair: (student level, teacher level).
        strides: pixels per cell of the two.
        loss: weighted loss.
        mean_r: mean Pearson correlation; None where channel counts differ.
        constant_student: share of student channels with a standard deviation below 1e-4.
        constant_teacher: the same of the teacher.
        gradient_ratio: norm of the distillation gradient over the detection gradient at the student's tap.
    """

    pair: tuple[int, int]
    strides: tuple[int, int]
    loss: float
    mean_r: float | None
    constant_student: float
    constant_teacher: float
    gradient_ratio: float | None

    def __str__(self) -> str:
        """One line; a dash where a figure is not defined."""
        r = f"{self.mean_r:.3g}" if self.mean_r is not None else "-"
        shares = f"loss {self.loss:.4f}, mean r {r}, gradient KD : detection {_ratio_text(self.gradient_ratio)}"
        return f"levels {self.pair} of strides {self.strides}: {shares}"


@dataclass
class PreflightReport:
    """What was found; ``errors`` stop training, ``warnings`` do not."""

    student_strides: dict[str, list[int]] = field(default_factory=dict)
    student_channels: dict[str, list[int]] = field(default_factory=dict)
    teachers: list[dict[str, Any]] = field(default_factory=list)
    levels: dict[str, list[LevelReport]] = field(default_factory=dict)
    gradient_shares: dict[str, float | None] = field(default_factory=dict)
    student_load: dict[str, int] | None = None
    student_weights: str = ""
    images: int = 0
    detection_loss: float | None = None
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole report."""
        return json.dumps(asdict(self), indent=1)

    def refuse(self) -> None:
        """Raise ValueError if there are errors."""
        if self.errors:
            raise ValueError("preflight failed: " + "; ".join(self.errors))

    def __str__(self) -> str:
        """A short text for the terminal."""
        lines = [f"preflight on {self.images} images", f"  student: {self.student_weights}"]
        lines += [
            f"    {tap}: strides {self.student_strides[tap]}, channels {self.student_channels[tap]}"
            for tap in sorted(self.student_strides)
        ]
        for number, teacher in enumerate(self.teachers):
            lines.append(f"  teacher {number}: {teacher['source']}: {teacher['load']}")
            lines.append(
                f"    AP {teacher['ap']:.3f}, AP50 {teacher['ap50']:.3f}; strides {teacher['strides']}, "
                f"channels {teacher['channels']}, preprocessor "
                f"{'as the student' if teacher['same_preprocessor'] else 'of its own (batches are converted)'}"
            )
        if self.detection_loss is not None:
            lines.append(f"  first batch: detection loss {self.detection_loss:.4f}")
        for name, levels in self.levels.items():
            lines += [f"  {name} {x}" for x in levels]
            share = _ratio_text(self.gradient_shares.get(name))
            lines.append(f"  {name} all levels: gradient KD : detection {share}")
        lines += [f"  warning: {text}" for text in self.warnings] + [f"  ERROR: {text}" for text in self.errors]
        return "\n".join(lines)


@contextmanager
def _untouched(module: Any) -> Iterator[None]:
    """Random states, modes, buffers and gradients of the student as before."""
    state = rng_state()
    modes = {m: m.training for m in module.student.modules()}
    buffers = {k: v.clone() for k, v in module.student.named_buffers()}
    try:
        yield
    finally:
        for key, value in module.student.named_buffers():
            value.data.copy_(buffers[key])
        for submodule, mode in modes.items():
            submodule.training = mode
        module.student.zero_grad(set_to_none=True)
        set_rng_state(state)


@contextmanager
def _parts_fit(who: str, what: str) -> Iterator[None]:
    """A failing forward pass as one line (ValueError); memory that runs out is another matter."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, IndexError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{who} cannot compute {what} ({type(error).__name__}: {reason}); check channels, number of levels, "
            "anchors and classes of its head"
        ) from error


def _batches(data: Any, split: str, images: int) -> Iterator[dict[str, Any]]:
    total, size = min(images, len(data.datasets[split])), max(1, data.batch_size)
    for start in range(0, total, size):
        yield data.batch(split, range(start, min(start + size, total)))


def _teacher_ap(teacher: Any, data: Any, images: int) -> tuple[float, float]:
    """AP and AP50 of a teacher on the first validation images, -1 where it cannot be told."""
    metric = CocoBoxAP(data.ground_truth("val"))
    for batch in _batches(data, "val", images):
        samples = teacher.predict(batch)
        metric.update([int(s.img_id) for s in samples], to_coco(samples, data.category_ids))
    stats = metric.compute()
    return float(stats["AP"]), float(stats["AP50"])


def _counts(report: LoadReport | None) -> dict[str, int] | None:
    return None if report is None else {key: len(value) for key, value in asdict(report).items()}


def _check_teacher(number: int, module: Any, data: Any, images: int, out: PreflightReport) -> None:
    teacher = module.teachers[number]
    divisor = int(getattr(module.student.data_preprocessor, "pad_size_divisor", 1))
    if teacher.geometry.divisor != divisor:
        out.errors.append(
            f"padding differs: the student pads to multiples of {divisor}, teacher {number} to "
            f"{teacher.geometry.divisor}; set pad_size_divisor={teacher.geometry.divisor} in the student's preprocessor"
        )
    known = num_classes(teacher.model)
    if known is not None and known != len(data.classes):
        ap = ap50 = -1.0
        text = f"teacher {number} has {known} classes, the data {len(data.classes)}: its AP cannot be measured"
        out.warnings.append(text)
    else:
        with _parts_fit(f"teacher {number}", "boxes"):
            ap, ap50 = _teacher_ap(teacher, data, images)
    names = list(teacher.classes)
    if names and names != list(data.classes):
        out.warnings.append(
            f"teacher {number} was trained on the classes {names[:5]}, the data have {data.classes[:5]}"
        )
    if ap == 0:
        out.warnings.append(f"teacher {number} has AP 0 on {out.images} images: wrong configuration or file")
    floor = module.min_teacher_ap
    if floor is not None and ap < floor:
        out.errors.append(f"teacher {number} has AP {ap:.3f} on {out.images} images, below min_teacher_ap {floor}")
    normal = Normalisation.of(module.student.data_preprocessor)
    out.teachers.append({
        "source": teacher.source(),
        "load": str(teacher.report) if teacher.report else "random weights",
        "load_counts": _counts(teacher.report),
        "ap": ap, "ap50": ap50,
        "strides": list(teacher.geometry.strides), "channels": list(teacher.geometry.channels),
        "preprocessor": asdict(teacher.normalisation),
        "same_preprocessor": teacher.normalisation == normal,
    })  # fmt: skip


def _dead(maps: Tensor) -> float:
    std = maps.detach().float().transpose(0, 1).flatten(1).std(dim=1)
    return float((std < _DEAD_STD).float().mean())


def _mean_r(student: Tensor, teacher: Tensor) -> float | None:
    """Mean correlation over channels, the student resized as in the loss; None where channel counts differ."""
    if student.shape[1] != teacher.shape[1]:
        return None
    if student.shape != teacher.shape:
        student = functional.interpolate(student, teacher.shape[-2:], mode="bilinear", align_corners=False)
    return float(pearson_r(student, teacher).mean())


def _norm(loss: Tensor, maps: Tensor) -> float | None:
    (grad,) = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
    return None if grad is None else float(grad.float().norm())


def _first_batch(module: Any, data: Any, out: PreflightReport) -> None:
    """Losses, correlations and gradient shares at the student's taps on one training batch."""
    module.student.train()
    batch = next(_batches(data, "train", data.batch_size))
    with _parts_fit("the student", "its loss on the first batch"):
        total, _, prepared = module.student_loss(copy.deepcopy(batch))
    out.detection_loss = float(total.detach())
    if not math.isfinite(out.detection_loss):
        out.errors.append("the student's detection loss on the first batch is not a number")
    student = {name: list(tap.maps) for name, tap in module._taps.items()}
    active = [(i, 1.0) for i in range(len(module.loss_specs))]
    samples = prepared["data_samples"]
    source = Normalisation.of(module.student.data_preprocessor)
    valid = [tuple(s.img_shape[:2]) for s in samples]
    losses = module.distill_losses(prepared, active)
    for i, levels in losses.items():
        spec = module.loss_specs[i]
        teacher = module.teachers[spec.teacher].features(prepared["inputs"], source, valid)
        reports = []
        for value, (a, b) in zip(levels, module.losses[i].pairs, strict=True):
            s, t = student[spec.student_tap][a], teacher[b]
            r = _mean_r(s.detach().float(), t.float())
            own, det = _norm(value, s), _norm(total, s)
            ratio = own / det if own is not None and det else None
            strides = (out.student_strides[spec.student_tap][a], out.teachers[spec.teacher]["strides"][b])
            reports.append(LevelReport((a, b), strides, float(value.detach()), r, _dead(s), _dead(t), ratio))
        name = f"{i}:{spec.method}"
        share = gradient_share(levels.sum(), total, student[spec.student_tap])
        out.levels[name], out.gradient_shares[name] = reports, None if share is None else float(share)
        _warn_levels(spec.method, reports, out)


def _warn_levels(method: str, reports: list[LevelReport], out: PreflightReport) -> None:
    for level in reports:
        for side, share in (("student", level.constant_student), ("teacher", level.constant_teacher)):
            if share > _DEAD_SHARE:
                out.warnings.append(
                    f"{method} level {level.pair}: {share:.0%} of the {side}'s channels are nearly constant "
                    f"(std < {_DEAD_STD:g}); consider min_std"
                )
        if math.isnan(level.loss):
            out.errors.append(f"{method} level {level.pair}: the first batch's loss is not a number")


def preflight(module: Any, datamodule: Any, images: int = 16) -> PreflightReport:
    """Check a distiller against its data; changes nothing in either.

    Args:
        module: a configured :class:`DetectionDistiller`.
        datamodule: set up for ``fit``.
        images: validation images on which the teachers' AP is measured.

    Returns:
        The report; call ``refuse()`` to stop on errors.

    Raises:
        ValueError: from building a pair that cannot be compared, or a head with another number of classes.
    """
    module.configure_model()
    module.check_classes(datamodule)
    out = PreflightReport(images=min(images, len(datamodule.datasets["val"])))
    out.student_weights = str(module.student_report) if module.student_report else "initialised, no checkpoint"
    out.student_load = _counts(module.student_report)
    with _untouched(module):
        for name in {spec.student_tap for spec in module.loss_specs}:
            geometry = probe(module.student, name)
            out.student_strides[name], out.student_channels[name] = list(geometry.strides), list(geometry.channels)
        for number in range(len(module.teachers)):
            _check_teacher(number, module, datamodule, images, out)
        if not out.errors and module.loss_specs:
            _first_batch(module, datamodule, out)
    return out
