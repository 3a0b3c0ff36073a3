"""``septet assign --then fit``: start a fit with the configuration of the run that speaks for the first choice."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot go together, before any work."""
    if options.then is None:
        return
    if options.batch:
        raise UsageError("--then fit starts one run: use it without --batch")
    if options.json:
        raise UsageError("--then fit writes the log of a run to the same stream: use it without --json")
    if options.ledger == "none":
        raise UsageError("--then fit takes its configuration from a run of the ledger: drop --ledger none")


def ledger_path(options: argparse.Namespace) -> Path:
    """The ledger of the question, default ``runs/ledger.sqlite`` (or under SEPTET_RUNS)."""
    return Path(options.ledger) if options.ledger else Path(os.environ.get("SEPTET_RUNS", "runs")) / "ledger.sqlite"


def config_of(choice: Mapping[str, Any], ledger: Path) -> Path:
    """Saved configuration of the first evidence of a choice that is a run of this ledger.

    Raises:
        UsageError: the choice rests on tables or foreign records only, or its runs are gone.
    """
    sources = [str(e["source"]) for e in choice["evidence"]]
    for source in sources:
        plain = source.replace("-", "").replace("_", "").isalnum()
        found = sorted(ledger.parent.glob(f"*/*/{source}/config.yaml")) if plain else []
        if found:
            return found[0]
    raise UsageError(
        f"--then fit: {choice['model']} was measured elsewhere ({'; '.join(sources)}), no run under {ledger.parent} "
        "holds its configuration; choose among Septet's own runs with --tables none"
    )


def start(answer: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Fit the first choice; returns the exit code of the fit."""
    config = config_of(answer["choices"][0], ledger_path(options))
    words = ["fit", "-c", str(config), "--name", config.parent.parent.name]
    print(f"starting: septet {' '.join(words)}", flush=True)
    return _fit(words)


def _fit(words: Sequence[str]) -> int:
    from septet.launch.cli import main

    return main(words)
