"""Latency limits: which quantity binds, and how sure a candidate is to keep it."""

from __future__ import annotations

import math

import pytest

from septet.lightning_modules.smap.limits import feasibility, latency_residuals, quantities


def entry(**criteria):
    return {"rows": [{"criteria": criteria, "model": {"name": "A"}}]}


def test_the_95th_percentile_binds_and_a_null_one_falls_back_to_the_median():
    assert quantities([entry(latency_ms_p50=1.0, latency_ms_p95=3.0)], "")["latency"] == 3.0
    assert quantities([entry(latency_ms_p50=1.0, latency_ms_p95=None)], "")["latency"] == 1.0
    assert quantities([entry(latency_ms_p50=1.0, device="cpu")], "cuda")["latency"] is None


def test_without_a_limit_it_is_certain_and_without_a_latency_unknown():
    assert feasibility([entry()], None, [], "") == 1.0
    assert feasibility([entry()], 5.0, [], "") is None


def test_two_percentiles_of_batches_give_a_log_normal():
    one = [entry(latency_ms_p50=10.0, latency_ms_p95=20.0)]
    assert feasibility(one, 20.0, [], "") == pytest.approx(0.95, abs=1e-9)
    assert feasibility(one, 10.0, [], "") == pytest.approx(0.5, abs=1e-9)
    assert 0.95 < feasibility(one, 30.0, [], "") < 1


def test_one_number_is_kept_or_not():
    assert feasibility([entry(latency_ms_p50=10.0)], 10.0, [], "") == 1.0
    assert feasibility([entry(latency_ms_p50=10.0)], 9.0, [], "") == 0.0


def test_residuals_between_data_sets_give_the_conformal_share():
    by_model = {"A": [entry(latency_ms_p95=x) for x in (1.0, 2.0, 4.0)], "B": [entry(latency_ms_p95=7.0)] * 2}
    residuals = latency_residuals(by_model, "")
    assert len(residuals) == 5
    assert residuals[-1] == pytest.approx(math.log(4 / 1.5))
    sure = feasibility(by_model["A"], 1e6, residuals, "")
    assert sure == pytest.approx(5 / 6)
    assert feasibility(by_model["A"], 2.0, residuals, "") == pytest.approx(sum(r <= 1e-9 for r in residuals) / 6)
