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


def test_quick_bench_of_a_gpu_runs_anywhere():
    from septet.launch.bench.drivingdojo_gpu import rows

    found = rows("cpu", quick=True)
    names = [row["name"] for row in found]
    assert len(names) == len(set(names))
    assert any("checkpointing" in name for name in names)
    for row in found:
        assert row["value"] > 0
        if row["peer"]:
            assert row["ratio"] == pytest.approx(row["peer_value"] / row["value"])
    steps = [row for row in found if row["name"].startswith("train step: small")]
    assert all("tokens/s" in row["note"] and "TFLOP" in row["note"] for row in steps)
