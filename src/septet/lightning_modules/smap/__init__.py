"""SMAP: which model and data set for which scenario (a declared reconstruction)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {"SMAP": "septet.lightning_modules.smap.module", "fit_predict": "septet.lightning_modules.smap.run"}
__all__ = ["SMAP", "fit_predict"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
