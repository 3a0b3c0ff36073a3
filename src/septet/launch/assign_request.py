"""Flags and scenario file of ``septet assign`` as one checked request."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.records import canonical_block
from septet.launch.errors import UsageError, did_you_mean
from septet.lightning_modules.smap.choose import Request

FIELDS = ("task", "horizon", "domain", "modality")
LIMITS = ("max_latency_ms", "max_params", "max_memory_gb")
CHOICES = {"direction": ("min", "max"), "licence": ("any", "permissive")}
KNOWN = (*FIELDS, "metric", *CHOICES, *LIMITS)
CRITERIA = ("accuracy", "efficiency", "acceptance")


def read_scenario(path: Path | None) -> dict[str, Any]:
    """A scenario file as a mapping; each wrong value is named with the file."""
    if path is None:
        return {}
    import yaml

    if not path.is_file():
        raise UsageError(f"--scenario {path}: no such file")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--scenario {path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--scenario {path}: a mapping of fields is wanted, got {type(found).__name__}")
    odd = sorted(str(k) for k in set(found) - set(KNOWN))
    if odd:
        raise UsageError(f"--scenario {path}: unknown field {odd[0]!r}{did_you_mean(odd[0], KNOWN)}")
    for name, value in found.items():
        _check_field(f"{path}: {name}", name, value)
    return found


def _check_field(where: str, name: str, value: Any) -> None:
    """One field of a file."""
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{where} is {value!r}{did_you_mean(str(value), CHOICES[name])}")
    if name in LIMITS:
        _positive(where, value)
    elif name in ("task", "metric") and not isinstance(value, str):
        raise UsageError(f"{where} is {value!r}; a text is wanted, in quotes if it looks like a number or a list")
    elif isinstance(value, list | dict):
        raise UsageError(f"{where} is {value!r}; one value is wanted")


def _positive(where: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not value > 0:
        raise UsageError(f"{where} is {value}: a limit must be positive and finite")


def request_of(options: argparse.Namespace, path: Path | None) -> Request:
    """Options and scenario file as one request; flags and file must agree."""
    given = read_scenario(path)
    for name in KNOWN:
        flag = getattr(options, name)
        if flag is not None and name in given and given[name] != flag:
            option = name.replace("_", "-")
            raise UsageError(f"contradictory: --{option} {flag} and {path} says {given[name]}; drop one")
        if flag is not None:
            given[name] = flag
    for name in ("task", "metric"):
        if not str(given.get(name) or "").strip():
            raise UsageError(f"assign needs --{name} (or a field {name!r} in --scenario)")
    for name in (*LIMITS, "max_regret", "top", "probe"):
        value = given.get(name, getattr(options, name))
        if value is not None:
            _positive(f"--{name.replace('_', '-')}", value)
    scenario = canonical_block("scenario", {k: given[k] for k in (*FIELDS, "metric", "direction") if k in given})
    return Request(
        scenario=scenario, limits={k: float(given[k]) for k in LIMITS if k in given},
        licence=given.get("licence", "any"), device=options.device,
        datasets=() if options.datasets == "auto" else tuple(_names("--datasets", options.datasets)),
        models=tuple(_names("--models", options.models)) if options.models else (), scorer=options.scorer,
        weights=_weights(options.weights), max_regret=options.max_regret, top=options.top, probe=options.probe,
    )  # fmt: skip


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def _names(option: str, text: str) -> list[str]:
    found = _words(text)
    if not found:
        raise UsageError(f"{option} {text!r} holds no name; leave it out for all")
    return found


def _weights(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in _words(text):
        name, _, value = word.partition("=")
        if name not in CRITERIA:
            raise UsageError(f"--weights {word!r}: unknown criterion{did_you_mean(name, CRITERIA)}")
        if name in found:
            raise UsageError(f"--weights {text!r}: {name} stands twice; keep one")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--weights {word!r}: a number is wanted after '='") from error
    if not found or min(found.values()) < 0 or not 0 < sum(found.values()) < float("inf"):
        raise UsageError(f"--weights {text!r}: not negative, and not all zero")
    return found
