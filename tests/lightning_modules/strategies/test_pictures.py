"""Pictures of plans and sweeps: what they show follows from the numbers."""

from __future__ import annotations

import pytest
import torch

from septet.kernels.placement import HeadPlan, Replica, contiguous_plan, solve
from septet.lightning_modules.strategies.pictures import (
    copies_figure,
    met_figure,
    plan_drawing,
    plan_figure,
    predicted_figure,
    speedup_figure,
)
from septet.lightning_modules.strategies.sweeps import profiles, speedups, utilisation_by_copies

LOADS = torch.tensor([[9.0, 1.0, 1.0, 1.0], [1.0, 5.0, 5.0, 1.0]], dtype=torch.float64)


def test_loads_before_and_after_stand_side_by_side():
    plan = solve(4 * LOADS, 2, batch_size=4, copies=1)
    figure = plan_figure(plan, 4 * LOADS)
    before, after, totals = figure.axes[:3]
    assert before.get_title().startswith("contiguous, U 0.75")
    assert after.get_title() == f"plan, U {plan.utilisation(4 * LOADS):.2f}"
    heights = [bar.get_height() for bar in totals.patches]
    assert sum(heights) == pytest.approx(2 * 4 * float(LOADS.sum()))


def test_without_contiguous_blocks_only_the_plan_is_drawn():
    plan = solve(LOADS[:, :3], 2, batch_size=1)
    assert [axis.get_title() for axis in plan_figure(plan, LOADS[:, :3]).axes if "U" in axis.get_title()] == [
        f"plan, U {plan.utilisation(LOADS[:, :3]):.2f}"
    ]


def test_a_plan_is_drawn_replica_by_replica():
    layer = ((Replica(0, 0, 1), Replica(2, 1, 4)), (Replica(1, 0, 4),))
    axis = plan_drawing(HeadPlan(3, 4, (layer, layer[::-1]))).axes[0]
    widths = sorted(round(patch.get_width() / 0.94, 6) for patch in axis.patches)
    assert widths == [0.25, 0.25, 0.75, 0.75, 1.0, 1.0]
    assert axis.get_title() == "plan: 3 devices, batch 4, 2 copies"
    assert len({patch.get_facecolor() for patch in axis.patches}) == 3


def test_utilisation_rises_with_copies_up_to_one():
    values = utilisation_by_copies(LOADS, 2, 8)
    assert values == sorted(values)
    assert len(values) == 5
    assert 0.6 < values[0] < values[-1] <= 1
    axis = copies_figure({"drawn": values}, "2 devices").axes[0]
    assert list(axis.lines[0].get_ydata()) == values


def test_speedups_say_that_they_are_simulated(tmp_path):
    tokens = profiles(256, root=tmp_path)["generated"]
    kv, attention, step = speedups(tokens, 4, (1, 32), 1)
    assert kv[1] > attention[1] > step[1] > 1, "weights, MLP and all-reduces dilute the gain"
    assert kv[0] < kv[1], "a batch of one has nothing to share"
    figure = speedup_figure((1, 32), {"1 copy": (kv, attention, step)}, "generated")
    assert figure.axes[0].get_ylabel() == "speed-up over standard TP (simulated)"
    assert [axis.get_title() for axis in figure.axes] == [
        "KV alone (no weights)", "attention, weights included", "whole step",
    ]  # fmt: skip


def test_bytes_per_process_with_and_without_a_plan():
    assert len(met_figure([2**20, 2**20], {"adakv": [2**20, 2**21]}).axes[0].patches) == 4
    axis = met_figure(None, {"adakv": [2**20, 2**21]}).axes[0]
    assert [bar.get_height() for bar in axis.patches] == [1.0, 2.0]


def test_measured_against_simulated():
    row = {"profile": "p", "world": 2, "simulated_attention_ratio": 1.3, "attention_ratio": 1.2,
           "simulated_step_ratio": 1.2, "step_ratio": 1.1}  # fmt: skip
    axes = predicted_figure([row]).axes
    assert axes[0].collections[0].get_offsets().tolist() == [[1.3, 1.2]]
    assert axes[1].collections[0].get_offsets().tolist() == [[1.2, 1.1]]


def test_a_run_shows_contiguous_loads_as_level_where_they_are():
    plan = contiguous_plan(2, 4, 2, 1)
    even = torch.ones(2, 4, dtype=torch.float64)
    assert plan_figure(plan, even).axes[1].get_title() == "plan, U 1.00"
