"""Run the command in this process or in a child, and read what it left."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from septet.launch.cli import main
from tests.support.paths import ROOT


def septet(*words: str) -> int:
    """The command in this process."""
    return main([str(w) for w in words])


def septet_process(
    *words: str, env: dict[str, str] | None = None, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, from the repository root."""
    return subprocess.run(
        [sys.executable, "-m", "septet", *words], cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
        capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip


def newest(root: Path, slug: str, name: str) -> Path:
    """The newest run directory of a name."""
    return max((root / slug / name).iterdir(), key=lambda p: p.stat().st_mtime)


def curve(run: Path) -> dict[tuple[str, str], str]:
    """Every logged value of ``metrics.csv`` as text, by metric and step."""
    found = {}
    with (run / "metrics.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            for key, text in row.items():
                if text and key not in ("step", "epoch"):
                    assert (key, row["step"]) not in found, f"{key} logged twice at step {row['step']}"
                    found[key, row["step"]] = text
    return found
