"""What a user writes about teachers and losses."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

METHODS = ("pkd", "fitnet", "cwd", "mgd", "fgd")
PRECISIONS = ("32", "bf16", "16")
_Spec = TypeVar("_Spec", "TeacherSpec", "LossSpec")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; whole numbers count as float, truth values never as numbers."""
    if isinstance(kind, UnionType):
        return any(_fits(value, option) for option in get_args(kind))
    plain_type = get_origin(kind) or kind
    if plain_type in (int, float):
        return isinstance(value, int if plain_type is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, (list, tuple) if plain_type is list else Mapping if plain_type is dict else plain_type)


def _check_types(spec: "TeacherSpec | LossSpec", name: str) -> None:
    """Refuse a value of another type than its field's (ValueError)."""
    for entry in fields(spec):
        value = getattr(spec, entry.name)
        if not _fits(value, entry.type):
            kind = getattr(entry.type, "__name__", None) if get_origin(entry.type) is None else None
            raise ValueError(f"{entry.name} of a {name} must be {kind or entry.type}, got {value!r}")


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
        if isinstance(self.precision, int) and not isinstance(self.precision, bool):
            self.precision = str(self.precision)
        _check_types(self, "teacher")
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
        """Refuse unknown methods, weights that are no weight, and impossible epochs."""
        _check_types(self, "loss")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"weight of a {self.method} loss must be a finite number of at least 0, got {self.weight}; "
                "pkd takes 6 for a two-stage teacher, 10 for a one-stage one"
            )
        if self.method not in METHODS:
            raise ValueError(f"unknown distillation method {self.method!r}; choose from {', '.join(METHODS)}")
        if self.start < 0 or self.ramp < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"need 0 <= start < stop and ramp >= 0, got {self.start}, {self.stop}, {self.ramp}")

    def factor(self, epoch: int) -> float:
        """Share of the weight that counts in an epoch: 0 outside start..stop, rising over ``ramp`` epochs."""
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return 0.0
        return min(1.0, (epoch - self.start + 1) / self.ramp) if self.ramp else 1.0


def _spec(kind: type[_Spec], name: str, value: Any) -> _Spec:
    """A spec from itself or from a mapping, whose keys are those of the spec."""
    if isinstance(value, kind):
        return value
    known = [entry.name for entry in fields(kind)]
    if not isinstance(value, Mapping):
        raise ValueError(f"a {name} is a mapping of {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown key {str(key)!r} of a {name}; {hint}it has {', '.join(known)}")
    if kind is TeacherSpec and "config" not in value:
        raise ValueError(f"a teacher needs config (an mmdet name, file or dictionary), got {dict(value)}")
    return kind(**value)


def teacher_specs(values: Sequence[TeacherSpec | Mapping[str, Any]]) -> list[TeacherSpec]:
    """Specs from specs or from the plain mappings that checkpoints and configurations hold (ValueError if wrong)."""
    return [_spec(TeacherSpec, "teacher", value) for value in values]


def loss_specs(values: Sequence[LossSpec | Mapping[str, Any]], num_teachers: int) -> list[LossSpec]:
    """The same for losses, checked against the number of teachers."""
    specs = [_spec(LossSpec, "loss", value) for value in values]
    for spec in specs:
        if not 0 <= spec.teacher < num_teachers:
            raise ValueError(f"a loss names teacher {spec.teacher}, but there are {num_teachers} teachers")
    return specs


def plain(values: Sequence[TeacherSpec | LossSpec | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mappings of plain types, for checkpoints; as given, so that they equal the configuration's."""
    return [dict(value) if isinstance(value, Mapping) else asdict(value) for value in values]
