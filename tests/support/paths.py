"""Where golden values and real data lie; a test that needs an absent file is skipped loudly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


def _first(candidates: list[Path], what: str) -> Path:
    for path in candidates:
        if path.exists():
            return path
    if os.environ.get("SEPTET_REQUIRE_DATA") == "1":
        pytest.fail(f"{what} is missing; looked at {[str(p) for p in candidates]}")
    pytest.skip(f"SKIPPED FOR LACK OF DATA: {what}")


def golden(slug: str, name: str = "") -> Path:
    """A golden file, from tests/golden or the shared folder."""
    return _first([ROOT / "tests/golden" / slug / name, SHARED / "golden" / slug / name], f"golden {slug}/{name}")


def shared_data(name: str) -> Path:
    """A real data file or folder, from ``$SEPTET_DATA`` or the shared folder."""
    roots = [Path(p) for p in [os.environ.get("SEPTET_DATA", "")] if p] + [SHARED / "data"]
    return _first([root / name for root in roots], f"data {name}")
