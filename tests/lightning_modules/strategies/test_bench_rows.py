"""Rows of ``septet bench fairkv``: limits hold and targets are judged."""

from __future__ import annotations

import re

import pytest

from septet.launch.bench.fairkv import TARGETS, table, utilisation_row
from septet.lightning_modules.strategies.sweeps import generated_profile


def _limit(row):
    return float(re.search(r"[\d.]+", row["limit"]).group())


@pytest.mark.parametrize("copies", [0, 1])
def test_utilisation_stays_below_its_bound(copies):
    row = utilisation_row("generated", generated_profile(1024)[:8], 4, copies)
    assert row["peer_value"] < row["value"] <= _limit(row) + 5e-4
    assert row["ratio"] == pytest.approx(row["value"] / row["peer_value"])
    assert row["note"] == "", "no target for this profile"


def test_a_target_is_judged():
    profile, count, copies = next(iter(TARGETS))
    tokens = generated_profile(1024)[:8]
    assert utilisation_row(profile, tokens, count, copies)["note"] == "target 0.96: reached"
    even_less = tokens.clone()
    even_less[:, 1:] = 0
    assert utilisation_row(profile, even_less, count, copies)["note"] == "target 0.96: missed"


def test_simulated_steps_stay_above_perfect_balance():
    rows = table("generated", generated_profile(1024), 1024, 32, 4, copies=(1,))
    assert [row["name"].split(": ")[1] for row in rows] == ["standard TP", "assignment only", "+1 copies"]
    steps = [row["value"] for row in rows]
    assert steps == sorted(steps, reverse=True)
    for row in rows:
        assert row["value"] >= _limit(row) - 5e-3
        assert row["unit"] == "ms per step (simulated)"
        assert row["tokens_per_second"] == pytest.approx(32 / row["value"] * 1e3)
