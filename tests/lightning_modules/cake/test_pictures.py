"""What the figures show: every line, real sizes, plain numbers."""

import torch

from septet.kernels.policies import CAKE, FullCache, SnapKV, StreamingLLM
from septet.lightning_modules.cake.evaluation import compressed
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.cake.pictures import (
    accuracy_against_bytes,
    layer_budgets,
    needle_heat_map,
    stage_budgets,
)


def caches():
    torch.manual_seed(0)
    model = CausalLM(DecoderConfig(60, 32, 48, 2, 4, 2))
    policies = {"cake-24": CAKE(24, window=4), "snapkv-24": SnapKV(24, 4), "streamingllm-24": StreamingLLM(24)}
    return compressed(model, torch.randint(60, (120,)), policies)


def test_stages_of_two_layers():
    figure = stage_budgets(caches()["cake-24"], "cake-24")
    axes, bar = figure.axes
    figure.canvas.draw()
    assert [line.get_xdata()[0] for line in axes.lines] == [1, 2]
    assert all(line.get_marker() == "o" for line in axes.lines)
    assert all(float(tick.get_text()).is_integer() for tick in axes.get_xticklabels())
    assert bar.get_ylabel() == "layer"
    assert axes.get_ylabel() == "stored tokens per head"
    assert not any("10^" in tick.get_text() for tick in axes.get_yticklabels())


def test_coinciding_lines_differ():
    axes = layer_budgets(caches()).axes[0]
    snap, stream = (
        next(line for line in axes.lines if line.get_label() == f"{name}-24") for name in ("snapkv", "streamingllm")
    )
    assert snap.get_ydata().tolist() == stream.get_ydata().tolist()
    assert snap.get_marker() != stream.get_marker()
    assert snap.get_markersize() > stream.get_markersize()
    assert axes.get_ylim()[1] > max(line.get_ydata().max() for line in axes.lines)


def test_accuracy_in_megabytes():
    point = {"kv_bytes": 2e6, "accuracy": 0.5}
    table = {"full": {"kv_bytes": 8e6, "accuracy": 1.0}, "cake-64-tau1=1.0": point, "cake-128-tau1=1.0": point}
    axes = accuracy_against_bytes({**table, "cake-64-tau1=1.6": point, "snapkv-64": point}).axes[0]
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["full", "cake-tau1=1.0", "cake-tau1=1.6", "snapkv"]
    assert (lines["full"].get_xdata()[0], lines["full"].get_ydata()[0]) == (8.0, 1.0)
    assert len(lines["cake-tau1=1.0"].get_xdata()) == 2
    assert len({line.get_marker() for line in lines.values()}) == 4
    assert axes.get_xlabel().endswith("MB")


def test_heat_maps_say_how_long_the_prompts_were():
    axes = needle_heat_map(torch.zeros(5, 1), [8192], FullCache().label, {8192: 6104.2}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8192\n(6,104)"]
    assert "mean prompt" in axes.get_xlabel()
    assert needle_heat_map(torch.zeros(5, 1), [64], "x").axes[0].get_xlabel() == "context_length, tokens"
