"""What a user writes about teachers and losses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

METHODS = ("pkd", "fitnet", "cwd", "mgd", "fgd")
PRECISIONS = ("32", "bf16", "16")


@dataclass
class TeacherSpec:
    """A frozen teacher.

    Attributes:
        config: mmdet name, file or dictionary.
        checkpoint: weights; null (random weights) only with ``preflight: false``.
        precision: ``32``, ``bf16`` or ``16`` of its forward pass.
        compile: ``torch.compile`` its feature extractor.
        mode: ``eval``, or ``mmrazor`` (only batch norm in eval, as the reference runs it).
    """

    config: str | dict[str, Any]
    checkpoint: str | None = None
    precision: str = "32"
    compile: bool = False
    mode: str = "eval"

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        if self.mode not in ("eval", "mmrazor"):
            raise ValueError(f"unknown teacher mode {self.mode!r}; choose eval or mmrazor")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown teacher precision {self.precision!r}; choose from {', '.join(PRECISIONS)}")


@dataclass
class LossSpec:
    """One distillation term.

    Attributes:
        method: ``pkd``, ``fitnet``, ``cwd``, ``mgd`` or ``fgd``.
        weight: multiplies each level (alpha of the paper: 6 for two-stage teachers, 10 for one-stage ones).
        teacher: number of the teacher.
        pairs: ``index``, ``stride`` or explicit [student, teacher] pairs.
        levels: how many pairs.
        student_tap: module whose output is compared.
        teacher_tap: the same of the teacher.
        start: first epoch in which the term counts.
        stop: first epoch in which it no longer does; null for never.
        ramp: epochs over which the weight rises linearly.
        options: of the method (``resize``, ``min_std``, ``tau``, ``mask_ratio``, ``gamma`` ...), and
            ``adapter: conv1x1`` for pkd, fitnet and cwd where channel counts differ.
    """

    method: str = "pkd"
    weight: float = 1.0
    teacher: int = 0
    pairs: str | list[list[int]] = "index"
    levels: int = 4
    student_tap: str = "neck"
    teacher_tap: str = "neck"
    start: int = 0
    stop: int | None = None
    ramp: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unknown methods and impossible epochs."""
        if self.method not in METHODS:
            raise ValueError(f"unknown distillation method {self.method!r}; choose from {', '.join(METHODS)}")
        if self.start < 0 or self.ramp < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"need 0 <= start < stop and ramp >= 0, got {self.start}, {self.stop}, {self.ramp}")

    def factor(self, epoch: int) -> float:
        """Share of the weight that counts in an epoch: 0 outside start..stop, rising over ``ramp`` epochs."""
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return 0.0
        return min(1.0, (epoch - self.start + 1) / self.ramp) if self.ramp else 1.0


def teacher_specs(values: Sequence[TeacherSpec | Mapping[str, Any]]) -> list[TeacherSpec]:
    """Specs from specs or from the plain mappings that checkpoints hold."""
    return [TeacherSpec(**v) if isinstance(v, Mapping) else v for v in values]


def loss_specs(values: Sequence[LossSpec | Mapping[str, Any]], num_teachers: int) -> list[LossSpec]:
    """The same for losses, checked against the number of teachers."""
    specs = [LossSpec(**v) if isinstance(v, Mapping) else v for v in values]
    for spec in specs:
        if not 0 <= spec.teacher < num_teachers:
            raise ValueError(f"a loss names teacher {spec.teacher}, but there are {num_teachers} teachers")
    return specs


def plain(specs: Sequence[TeacherSpec | LossSpec]) -> list[dict[str, Any]]:
    """Mappings of plain types, for checkpoints."""
    return [asdict(spec) for spec in specs]
