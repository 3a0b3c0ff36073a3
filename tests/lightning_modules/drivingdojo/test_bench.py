"""The benchmark runs and gives the rows the record needs."""

from __future__ import annotations

import pytest


def test_quick_bench():
    pytest.importorskip("cv2")
    from septet.launch.bench.drivingdojo import run

    rows = run("cpu", quick=True)
    keys = {"name", "value", "unit", "peer", "peer_value", "ratio", "limit", "note"}
    assert all(set(row) == keys for row in rows)
    assert all(row["value"] > 0 for row in rows)
    decode = rows[0]
    assert decode["ratio"] == pytest.approx(decode["value"] / decode["peer_value"])
    assert "pixel difference" in decode["note"]
