"""Parameter groups and learning rates against mmengine's own optimiser and schedulers."""

from typing import Any

import pytest
import torch
from torch import nn

from septet.lightning_modules.pkd.optim import build_optimizer, build_schedule, optimiser_steps

PARAMWISE: list[dict[str, Any]] = [
    {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0, "bias_decay_mult": 0.0},
    {"dwconv_decay_mult": 0.1, "custom_keys": {"body": {"lr_mult": 0.1}, "body.2": {"lr_mult": 0.5, "decay_mult": 0}}},
]
SGD = {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.head = nn.Linear(2, 2)


def rows(optimizer: torch.optim.Optimizer) -> list[tuple[float, float, int]]:
    groups = optimizer.param_groups
    return [(g["lr"], g["weight_decay"], sum(p.numel() for p in g["params"])) for g in groups]


@pytest.mark.parametrize("paramwise", PARAMWISE, ids=["norm-bias", "custom"])
def test_groups_equal_mmengine(paramwise: dict[str, Any]) -> None:
    optim = pytest.importorskip("mmengine.optim", reason="SKIPPED FOR LACK OF the detection extra")
    model = Net()
    wrapper = optim.DefaultOptimWrapperConstructor({"type": "OptimWrapper", "optimizer": dict(SGD)}, paramwise)(model)
    assert rows(build_optimizer(model, [], SGD, paramwise)) == rows(wrapper.optimizer)


def test_six_hundred_learning_rates_equal_mmengine() -> None:
    optim = pytest.importorskip("mmengine.optim", reason="SKIPPED FOR LACK OF the detection extra")
    ours = build_optimizer(Net(), [], SGD, PARAMWISE[1])
    schedule = build_schedule(ours, {"milestones": [2, 4]}, 600, 100)
    theirs = build_optimizer(Net(), [], SGD, PARAMWISE[1])
    schedulers = [
        optim.LinearLR(theirs, start_factor=0.001, by_epoch=False, begin=0, end=500),
        optim.MultiStepLR(theirs, milestones=[200, 400], gamma=0.1, by_epoch=False, end=600),
    ]
    for _ in range(600):
        expected = [g["lr"] for g in theirs.param_groups]
        assert [g["lr"] for g in ours.param_groups] == pytest.approx(expected, rel=1e-9)
        ours.step()
        theirs.step()
        schedule.step()
        for scheduler in schedulers:
            scheduler.step()


def test_learned_parts_and_batch_scaling() -> None:
    extra = nn.Conv2d(2, 2, 1)
    optimizer = build_optimizer(Net(), extra.parameters(), SGD, PARAMWISE[0], scale=0.5)
    assert optimizer.param_groups[-1]["params"] == list(extra.parameters())
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.01)
    assert max(g["lr"] for g in optimizer.param_groups) == pytest.approx(0.02), "bias_lr_mult 2 times half"


class Settings:
    limit_train_batches: int | float = 1.0
    accumulate_grad_batches = 2
    max_epochs = 3
    max_steps = -1


def test_steps_of_a_run() -> None:
    trainer = Settings()
    assert optimiser_steps(trainer, 25) == (39, 13)
    trainer.limit_train_batches = 5
    assert optimiser_steps(trainer, 25) == (9, 3)
    trainer.max_steps = 7
    assert optimiser_steps(trainer, 25) == (7, 3)
    trainer.limit_train_batches = 0.5
    trainer.max_epochs = -1
    assert optimiser_steps(trainer, 25) == (7, 6)
