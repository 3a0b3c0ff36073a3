"""Which student level is compared with which teacher level."""

from collections.abc import Sequence


def _by_index(student: Sequence[float], teacher: Sequence[float], levels: int) -> list[tuple[int, int]]:
    if min(len(student), len(teacher)) < levels:
        raise ValueError(
            f"index pairing of {levels} levels needs as many on both sides: the student has {len(student)}, the "
            f"teacher {len(teacher)}; lower `levels`"
        )
    return [(i, i) for i in range(levels)]


def _by_stride(student: Sequence[float], teacher: Sequence[float], levels: int) -> list[tuple[int, int]]:
    pairs = [(i, list(teacher).index(stride)) for i, stride in enumerate(student) if stride in teacher]
    if not pairs:
        raise ValueError(f"no common stride: student {list(student)}, teacher {list(teacher)}; use pairs: index")
    if len(pairs) < levels:
        raise ValueError(
            f"only {len(pairs)} common strides of student {list(student)} and teacher {list(teacher)}, {levels} levels "
            "asked; lower `levels`"
        )
    return pairs[:levels]


def _explicit(pairs: Sequence[Sequence[int]], num_student: int, num_teacher: int) -> list[tuple[int, int]]:
    if not pairs:
        raise ValueError("the list of level pairs is empty; give at least one [student, teacher] pair")
    for pair in pairs:
        if len(pair) != 2 or not (0 <= pair[0] < num_student and 0 <= pair[1] < num_teacher):
            raise ValueError(
                f"level pair {list(pair)} is out of range: the student has {num_student}, the teacher {num_teacher}"
            )
    return [(int(s), int(t)) for s, t in pairs]


def pair_levels(
    mode: str | Sequence[Sequence[int]],
    student_strides: Sequence[float],
    teacher_strides: Sequence[float],
    *,
    levels: int = 4,
) -> list[tuple[int, int]]:
    """Pairs of (student level, teacher level).

    Args:
        mode: ``"index"`` (the paper: i with i whatever the strides), ``"stride"`` (the first ``levels`` common
            strides) or explicit pairs.
        student_strides: pixels per cell of each student level.
        teacher_strides: the same for the teacher.
        levels: how many pairs; explicit pairs ignore it.

    Raises:
        ValueError: unknown mode, too few levels, no common stride, a pair out of range.

    Example:
        >>> pair_levels("stride", [8, 16, 32], [4, 8, 16, 32], levels=2)
        [(0, 1), (1, 2)]
    """
    if not isinstance(mode, str):
        return _explicit(mode, len(student_strides), len(teacher_strides))
    if mode not in ("index", "stride"):
        raise ValueError(f"unknown pairing {mode!r}; choose index, stride or a list of [student, teacher] pairs")
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    pair = _by_index if mode == "index" else _by_stride
    return pair(student_strides, teacher_strides, levels)
