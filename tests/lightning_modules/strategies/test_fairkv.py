"""The strategy through the command line on two gloo processes, and what a bad setting gets."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from tests.support.runs import newest, septet, septet_process

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
    assert septet("test", *SMOKE, "--trainer.strategy=auto", "--trainer.devices=1", "--name", "one") == 0
    ours, single = _metrics(runs, "fairkv", "smoke_2proc"), _metrics(runs, "cake", "one")
    for key in ("test/full/accuracy", "test/headkv-34/accuracy", "test/adakv-24/accuracy", "test/cake-24/accuracy"):
        assert ours[key] == pytest.approx(single[key], abs=1e-6)
    by_device = [ours[f"test/full/kv_bytes_device{d}"] for d in (0, 1)]
    assert min(by_device) > 0
    media = newest(runs, "fairkv", "smoke_2proc") / "media"
    pictures = {path.stem for path in media.glob("*.png")}
    assert pictures >= {
        "head_plan", "load_per_device", "kv_bytes_per_process", "utilisation_against_copies_4",
        "utilisation_against_copies_8", "speedup_against_batch",
    }  # fmt: skip
    assert json.loads((media / "head_plan.json").read_text())["n_devices"] == 2
    _check_placement(json.loads((media / "placement.json").read_text()), two.stderr)
    assert septet("report", "fairkv/smoke_2proc") == 0
    page = max(runs.rglob("*.html"), key=lambda path: path.stat().st_mtime).read_text()
    assert all(name in page for name in ("head plan", "load per device", "speedup against batch"))


def _check_placement(placement, said):
    """HeadKV's budgets are static: bytes are as planned. The others meet other loads, and that is said."""
    assert placement["loading"] is None, "built from a configuration, not from files"
    static = placement["policies"]["headkv-34"]
    assert static["kv_bytes_per_device"] == static["kv_bytes_planned"] == static["kv_bytes_of_loads_met"]
    assert static["utilisation_met"] == pytest.approx(placement["utilisation_planned"])
    assert not static["drifted"]
    other = placement["policies"]["adakv-24"]
    assert sum(other["kv_bytes_per_device"]) == pytest.approx(sum(other["kv_bytes_of_loads_met"]))
    assert other["drifted"] == (other["utilisation_met"] < 0.9 * placement["utilisation_planned"])
    assert other["drifted"] == ("on the loads of adakv-24 is below 90 %" in said)
    assert not placement["policies"]["full"]["drifted"], "the full cache is the reference, not what was planned for"


def test_predict_gives_the_rows_of_one_process(runs):
    env = {"SEPTET_RUNS": str(runs)}
    done = septet_process("predict", *SMOKE, "--name", "two", env=env)
    assert done.returncode == 0, done.stderr
    assert septet("predict", *SMOKE, "--trainer.strategy=auto", "--trainer.devices=1", "--name", "one") == 0
    answers = []
    for slug, name in (("fairkv", "two"), ("cake", "one")):
        lines = (newest(runs, slug, name) / "predictions.csv").read_text().splitlines()
        answers.append(sorted(tuple(line.split(",")[:3]) for line in lines[1:]))
    assert answers[0] == answers[1]


def test_a_batch_of_another_size_ends_both_processes(runs):
    words = ["--data.init_args.batch_size=5", "--trainer.strategy.init_args.weight_cost=auto"]
    done = septet_process("test", *SMOKE, *words, env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "batch_size=4" in done.stderr


def test_an_unknown_strategy_option_is_named(runs):
    words = ["--trainer.strategy.init_args.copied_heads=1"]
    done = septet_process("test", *SMOKE, *words, env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "copied_heads" in done.stderr + done.stdout
    assert not (runs / "fairkv").exists(), "refused before a run begins"


class _OnCPU(FairKVStrategy):
    root_device = torch.device("cpu")


class _OnGPU(FairKVStrategy):
    root_device = torch.device("cuda", 0)


def test_a_backend_of_the_other_device_is_named():
    with pytest.raises(ValueError, match="process_group_backend: gloo"):
        _OnCPU(process_group_backend="nccl").setup_environment()
    with pytest.raises(ValueError, match="set it to nccl or leave it out"):
        _OnGPU(process_group_backend="gloo").setup_environment()


class _Mesh(FairKVStrategy):
    """With a tensor-parallel group of so many processes, none of which is started."""

    devices = 2

    @property
    def device_mesh(self):
        return {"tensor_parallel": SimpleNamespace(size=lambda: self.devices)}


def test_plans_that_the_strategy_makes():
    assert _Mesh(batch_size=4)._make_plan(CONFIG) == contiguous_plan(2, 4, 2, 4)
    loads = [[9.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 9.0]]
    free = _Mesh(batch_size=4, profile=loads, copies=1, weight_cost=0.0)._make_plan(CONFIG)
    assert free == solve(4 * torch.tensor(loads), 2, batch_size=4, copies=1)
    assert free.copies == [1, 1]
    paid = _Mesh(batch_size=4, profile=loads, copies=1)._make_plan(CONFIG)
    assert paid.copies == [0, 0], "at 96 tokens a head's weights outweigh the gain"
    equal = _Mesh(batch_size=4, profile=loads, cardinality="equal", weight_cost=0.0)._make_plan(CONFIG)
    assert all(sorted(h[0].device for h in layer) == [0, 0, 1, 1] for layer in equal.layers)


def test_profiles_and_plans_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"profile \(1, 2\) does not fit a model of \(2, 4\)"):
        _Mesh(profile=[[1.0, 2.0]])._make_plan(CONFIG)
    path = tmp_path / "plan.json"
    contiguous_plan(2, 4, 2, 3).to_json(path)
    with pytest.raises(ValueError, match=r"batch_size=3, the strategy says 4; make them equal"):
        _Mesh(plan=str(path), batch_size=4)._make_plan(CONFIG)
    with pytest.raises(ValueError, match="no head profile"):
        _Mesh(profile=str(tmp_path / "none.npz"))._make_plan(CONFIG)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"head profile .*cut\.npz is damaged"):
        _Mesh(profile=str(tmp_path / "cut.npz"))._make_plan(CONFIG)
    with pytest.raises(ValueError, match="not negative"):
        _Mesh(profile=[[1.0, 2.0, -1.0, 1.0]] * 2)._make_plan(CONFIG)


def test_a_batch_that_copies_cannot_share_is_planned_without_them():
    loads = [[9.0, 1.0, 1.0, 1.0]] * 2
    with pytest.warns(UserWarning, match="a batch of 1 has nothing to share"):
        assert _Mesh(profile=loads, copies=2, batch_size=1)._make_plan(CONFIG).copies == [0, 0]


def test_more_devices_than_heads_are_said_to_be_idle():
    strategy = _Mesh(profile=[[9.0, 1.0, 1.0, 1.0]] * 2, batch_size=2)
    strategy.devices = 6
    with pytest.warns(UserWarning, match="6 devices for 4 KV heads: 2 idle without copies"):
        plan = strategy._make_plan(CONFIG)
    assert len({r.device for head in plan.layers[0] for r in head}) == 4
    bare = _Mesh(batch_size=2)
    bare.devices = 6
    with pytest.warns(UserWarning, match="2 idle without copies"):
        assert bare._make_plan(CONFIG).n_devices == 6


def test_fit_is_refused(runs):
    done = septet_process("fit", *SMOKE, "--ckpt_path", "none", env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "train with strategy: ddp" in done.stderr


def test_registered_once_by_name():
    assert StrategyRegistry["fairkv"]["strategy"] is FairKVStrategy


def test_constructor_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0"):
        FairKVStrategy(batch_size=0)
    with pytest.raises(ValueError, match="copies is -1"):
        FairKVStrategy(copies=-1)
    with pytest.raises(ValueError, match="cardinality 'even'"):
        FairKVStrategy(cardinality="even")
    with pytest.raises(TypeError, match="unknown_option"):
        FairKVStrategy(unknown_option=1)
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


def test_a_checkpoint_of_a_model_cut_while_loading_is_read_by_slices():
    seen = {}
    strategy = FairKVStrategy()
    strategy._lightning_module = SimpleNamespace(model=SimpleNamespace(load_hf_state_dict=seen.update))
    strategy._cut = True
    state = {"model.embed_tokens.weight": torch.ones(1), "model.lm_head.weight": torch.zeros(1)}
    strategy.load_model_state_dict({"state_dict": state})
    assert set(seen) == {"model.embed_tokens.weight", "lm_head.weight"}, "names as load_hf_state_dict takes them"


def test_a_killed_rank_ends_the_run(runs):
    words = ["--trainer.callbacks+=tests.support.toy.DieAtTest", "--name", "killed"]
    done = septet_process("test", *SMOKE, *words, env={"SEPTET_RUNS": str(runs)}, timeout=120)
    assert done.returncode != 0
    assert "another process of this run died" in done.stderr or "terminated with code 3" in done.stderr
