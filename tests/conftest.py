"""Shared fixtures: every test writes its runs into its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder of runs, in the environment of this process and its children."""
    root = tmp_path / "runs"
    monkeypatch.setenv("SEPTET_RUNS", str(root))
    for name in ("SEPTET_RUN_ID", "SEPTET_RUN_DIR", "SEPTET_CKPT"):
        monkeypatch.delenv(name, raising=False)
    return root
