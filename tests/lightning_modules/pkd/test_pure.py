"""Pairing, schedule, re-normalisation and specifications: plain functions with golden or closed answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.pkd.pairing import pair_levels
from septet.lightning_modules.pkd.preprocess import Normalisation, convert_batch
from septet.lightning_modules.pkd.schedule import warmup_multistep
from septet.lightning_modules.pkd.specs import LossSpec, TeacherSpec, loss_specs, plain, teacher_specs

ONE_STAGE, TWO_STAGE = [8, 16, 32, 64, 128], [4, 8, 16, 32, 64]


@pytest.mark.parametrize("name", ["lr_1x", "lr_overlap_tiny"])
def test_learning_rate_equals_mmengine(name: str) -> None:
    with np.load(golden("pkd", f"{name}.npz"), allow_pickle=False) as z:
        factors = [
            warmup_multistep(
                i, steps_per_epoch=int(z["steps_per_epoch"]), milestones=z["milestones"].tolist(),
                gamma=float(z["gamma"]), warmup_iters=int(z["warmup_iters"]), warmup_factor=float(z["warmup_factor"]),
            )
            for i in range(len(z["factor"]))
        ]  # fmt: skip
        np.testing.assert_allclose(factors, z["factor"], rtol=1e-9)


def test_no_warmup() -> None:
    assert warmup_multistep(0, steps_per_epoch=10, milestones=[1], warmup_iters=0) == 1
    assert warmup_multistep(10, steps_per_epoch=10, milestones=[1], warmup_iters=1) == pytest.approx(0.1)


def test_pairing() -> None:
    assert pair_levels("index", ONE_STAGE, TWO_STAGE) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert pair_levels("stride", ONE_STAGE, TWO_STAGE) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert pair_levels("stride", TWO_STAGE, ONE_STAGE, levels=2) == [(1, 0), (2, 1)]
    assert pair_levels([[4, 0], (1, 1)], ONE_STAGE, TWO_STAGE, levels=9) == [(4, 0), (1, 1)]


SOURCE = Normalisation((10.0, 20.0, 30.0), (2.0, 4.0, 5.0), bgr_to_rgb=True)
TARGET = Normalisation((1.0, 2.0, 3.0), (1.0, 2.0, 4.0), bgr_to_rgb=False, pad_value=-7.0)


def test_convert_batch_restores_pixels_order_and_padding() -> None:
    bgr = torch.randint(0, 255, (2, 3, 6, 8)).double()
    mean, std = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (SOURCE.mean, SOURCE.std))
    images = (bgr.flip(1) - mean) / std
    images[0, :, 4:] = 0
    images[0, :, :, 5:] = 0
    out = convert_batch(images, SOURCE, TARGET, [(4, 5), (6, 8)])
    mean, std = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (TARGET.mean, TARGET.std))
    expected = (bgr - mean) / std
    torch.testing.assert_close(out[1], expected[1])
    torch.testing.assert_close(out[0, :, :4, :5], expected[0, :, :4, :5])
    assert (out[0, :, 4:] == -7).all()
    assert (out[0, :, :, 5:] == -7).all()


def test_equal_statistics_share_the_batch() -> None:
    images = torch.randn(1, 3, 4, 4)
    assert convert_batch(images, SOURCE, Normalisation(SOURCE.mean, SOURCE.std, True), [(4, 4)]) is images


def test_loss_factor_over_epochs() -> None:
    spec = LossSpec(start=1, stop=5, ramp=2)
    assert [spec.factor(e) for e in range(6)] == [0, 0.5, 1, 1, 1, 0]
    assert LossSpec().factor(100) == 1


def test_specs_survive_as_plain_mappings() -> None:
    teachers = [TeacherSpec("a.py", "a.pth", precision="bf16")]
    losses = [LossSpec("cwd", 2.0, options={"tau": 4.0})]
    assert teacher_specs(plain(teachers)) == teachers
    assert loss_specs(plain(losses), 1) == losses


BAD: list[tuple[str, Callable[[], Any]]] = [
    ("unknown pairing", lambda: pair_levels("nearest", ONE_STAGE, TWO_STAGE)),
    ("levels must be", lambda: pair_levels("index", ONE_STAGE, TWO_STAGE, levels=0)),
    ("the student has 3", lambda: pair_levels("index", [8, 16, 32], TWO_STAGE)),
    ("no common stride", lambda: pair_levels("stride", [8, 16], [5, 7])),
    ("only 4 common", lambda: pair_levels("stride", ONE_STAGE, TWO_STAGE, levels=5)),
    ("out of range", lambda: pair_levels([[0, 5]], ONE_STAGE, TWO_STAGE)),
    ("out of range", lambda: pair_levels([[-1, 0]], ONE_STAGE, TWO_STAGE)),
    ("empty", lambda: pair_levels([], ONE_STAGE, TWO_STAGE)),
    ("steps_per_epoch", lambda: warmup_multistep(0, steps_per_epoch=0, milestones=[])),
    ("2 valid sizes", lambda: convert_batch(torch.zeros(1, 3, 2, 2), SOURCE, TARGET, [(1, 1), (1, 1)])),
    ("teacher mode", lambda: TeacherSpec("a", mode="train")),
    ("precision", lambda: TeacherSpec("a", precision="8")),
    ("distillation method", lambda: LossSpec("kd")),
    ("start < stop", lambda: LossSpec(start=3, stop=3)),
    ("names teacher 1", lambda: loss_specs([LossSpec(teacher=1)], 1)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_refusals(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
