"""Whether compiled CPU loops can be had."""

import importlib


def numba_available() -> bool:
    """Whether numba can be imported (a numba that rejects the installed numpy counts as absent)."""
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True
