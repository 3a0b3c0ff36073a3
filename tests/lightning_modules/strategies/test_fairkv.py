"""The strategy through the command line on two gloo processes, and what a bad setting gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from tests.support.runs import newest, septet_process

from septet.kernels.placement import contiguous_plan, solve
from septet.kernels.policies import build_policy
from septet.lightning_modules.cake import LongContextModule
from septet.lightning_modules.cake.model import DecoderConfig
from septet.lightning_modules.strategies import FairKVStrategy, profile_heads
from septet.lightning_modules.strategies.fairkv import check_profile, drift, weight_cost_in_tokens

SMOKE = ["-c", "configs/fairkv/smoke_2proc.yaml"]
CONFIG = DecoderConfig(vocab_size=98, hidden_size=32, intermediate_size=64, n_layers=2, n_heads=8, n_kv_heads=4)


def _metrics(root, slug, name):
    return json.loads((newest(root, slug, name) / "record.json").read_text())["metrics"]


def test_two_processes_equal_one(runs):
    env = {"SEPTET_RUNS": str(runs)}
    two = septet_process("test", *SMOKE, env=env)
    assert two.returncode == 0, two.stderr
    assert "planned utilisation" in two.stderr + two.stdout
    one = septet_process("test", *SMOKE, "--trainer.strategy=auto", "--trainer.devices=1", "--name", "one", env=env)
    assert one.returncode == 0, one.stderr
    ours, single = _metrics(runs, "fairkv", "smoke_2proc"), _metrics(runs, "cake", "one")
    for key in ("test/full/accuracy", "test/adakv-24/accuracy", "test/cake-24/accuracy"):
        assert ours[key] == pytest.approx(single[key], abs=1e-6)
    by_device = [ours[f"test/full/kv_bytes_device{d}"] for d in (0, 1)]
    assert min(by_device) > 0
    media = newest(runs, "fairkv", "smoke_2proc") / "media"
    assert (media / "head_plan.png").is_file()
    assert json.loads((media / "head_plan.json").read_text())["n_devices"] == 2


def test_predict_gives_the_rows_of_one_process(runs):
    env = {"SEPTET_RUNS": str(runs)}
    done = septet_process("predict", *SMOKE, "--name", "two", env=env)
    assert done.returncode == 0, done.stderr
    done = septet_process("predict", *SMOKE, "--trainer.strategy=auto", "--trainer.devices=1", "--name", "one", env=env)
    assert done.returncode == 0, done.stderr
    answers = []
    for slug, name in (("fairkv", "two"), ("cake", "one")):
        lines = (newest(runs, slug, name) / "predictions.csv").read_text().splitlines()
        answers.append(sorted(tuple(line.split(",")[:3]) for line in lines[1:]))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--trainer.strategy.init_args.process_group_backend=nccl"], "gloo"),
        (["--trainer.strategy.init_args.profile=[[1.0, 2.0]]"], "does not fit a model of (2, 4)"),
        (["--data.init_args.batch_size=5"], "batch_size=4"),
    ],
)
def test_wrong_settings_end_both_processes(words, fragment, runs):
    done = septet_process("test", *SMOKE, *words, env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert fragment in done.stderr


def test_fit_is_refused(runs):
    done = septet_process("fit", *SMOKE, "--ckpt_path", "none", env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "train with strategy: ddp" in done.stderr


def test_registered_once_by_name():
    assert StrategyRegistry["fairkv"]["strategy"] is FairKVStrategy


def test_constructor_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0"):
        FairKVStrategy(batch_size=0)
    with pytest.raises(ValueError, match="'some'"):
        FairKVStrategy(weight_cost="some")
    with pytest.raises(ValueError, match="no plan file"):
        FairKVStrategy(plan=str(tmp_path / "none.json"))


def test_a_profile_of_query_heads_is_offered_the_group_mean():
    with pytest.raises(ValueError, match="group_mean"):
        check_profile(torch.ones(2, 8), CONFIG)
    assert check_profile(torch.ones(2, 4), CONFIG).dtype == torch.float64


def test_weight_cost_in_tokens():
    assert weight_cost_in_tokens(CONFIG) == 3 * 32


def test_profile_is_the_mean_of_kept_tokens():
    module = LongContextModule(config=CONFIG, policies=["full"])
    batches = [{"input_ids": torch.randint(1, 90, (2, 40))}, {"input_ids": torch.randint(1, 90, (1, 40))}]
    even = profile_heads(module, batches, build_policy({"name": "snapkv", "capacity": 20, "window": 8}))
    np.testing.assert_array_equal(even, np.full((2, 4), 20.0))
    tokens = profile_heads(module, batches, build_policy({"name": "adakv", "capacity": 20, "window": 8}))
    assert tokens.shape == (2, 4)
    assert ((tokens.sum(dim=1) <= 80) & (tokens.sum(dim=1) > 80 - 4)).all(), "shares are rounded down per head"
    assert tokens.std() > 0
    with pytest.raises(ValueError, match="no batches"):
        profile_heads(module, [], build_policy("full"))


def test_drift_warns_below_nine_tenths():
    loads = torch.tensor([[8.0, 1.0, 1.0, 8.0]])
    plan = solve(loads, 2, batch_size=1)
    assert drift(plan, loads) == (pytest.approx(1.0), False)
    met, low = drift(plan, torch.tensor([[8.0, 8.0, 1.0, 1.0]]))
    assert low or met > 0.9
    assert drift(contiguous_plan(1, 4, 2), loads)[1] is False


def test_a_killed_rank_ends_the_run(runs):
    words = ["--trainer.callbacks+=tests.support.toy.DieAtTest", "--name", "killed"]
    done = septet_process("test", *SMOKE, *words, env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "another process of this run died" in done.stderr or "terminated with code 3" in done.stderr
