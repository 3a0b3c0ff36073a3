"""Arguments of the networks, checked before anything is read or trained."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch


def check_net(make: type, given: dict[str, Any], **fixed: Any) -> None:
    """Look at ``net`` of a configuration, and build the network once without memory.

    Args:
        make: class of the network.
        given: arguments of the user.
        **fixed: arguments that the module sets itself.

    Raises:
        ValueError: an unknown name, a width or number that is not whole and positive, a rate outside ``[0, 1)``.
    """
    known = {n: p.default for n, p in inspect.signature(make).parameters.items() if n not in fixed}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"net.{name} is no setting of {make.__name__}: choose among {', '.join(known)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(known[name], int) and not (isinstance(value, int) and number and value >= 1):
            raise ValueError(f"net.{name}={value!r}: give a whole number of at least 1")
        if isinstance(known[name], float) and not (number and math.isfinite(value) and 0 <= value < 1):
            raise ValueError(f"net.{name}={value!r} is outside [0, 1)")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            make(**fixed, **given)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f"net={given} cannot be built: {error}") from error
