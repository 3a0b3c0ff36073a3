"""One clear line for what a user got wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong input: printed as one line naming the value and the remedy; exit code 2."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the nearest known name, else the list of known names."""
    names = sorted(set(known))
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 16 else ""
