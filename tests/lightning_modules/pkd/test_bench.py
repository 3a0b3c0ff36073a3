"""The benchmark runs and keeps its promises that do not depend on the clock."""

import pytest

from septet.launch.bench import pkd


@pytest.mark.slow
@pytest.mark.usefixtures("smoke")
def test_rows() -> None:
    rows = pkd.run("cpu", quick=True)
    assert len(rows) == 5
    assert all(set(row) == {"name", "value", "unit", "peer", "peer_value", "ratio", "limit", "note"} for row in rows)
    assert all(row["value"] > 0 for row in rows)
    saved = next(row for row in rows if row["name"].startswith("saved"))
    assert saved["ratio"] < 0.01, "nothing but per-channel numbers"
