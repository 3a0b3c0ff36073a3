"""FitNet, CWD, MGD and FGD against golden values, and their refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.paths import golden
from torch import Tensor, nn

from septet.lightning_modules.pkd.losses import FGDLoss, MGDLoss, box_masks, cwd_loss, fitnet_loss


def load(name: str) -> dict[str, Any]:
    with np.load(golden("pkd", f"{name}.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def maps(arrays: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays["s"]).requires_grad_(), torch.from_numpy(arrays["t"]).requires_grad_()


def load_weights(module: nn.Module, arrays: dict[str, Any]) -> None:
    state = {k[3:].replace("__", "."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w__")}
    module.load_state_dict(state, strict=True)


def check(loss: Tensor, student: Tensor, teacher: Tensor, arrays: dict[str, Any]) -> None:
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)
    expected = torch.from_numpy(arrays["grad_s"])
    assert student.grad is not None
    assert (student.grad - expected).norm() <= 2e-5 * expected.norm()
    assert teacher.grad is None


@pytest.mark.parametrize("name", ["cwd_tau1_lw1", "cwd_tau1_lw10", "cwd_tau4_lw1"])
def test_cwd_golden(name: str) -> None:
    arrays = load(name)
    student, teacher = maps(arrays)
    check(
        cwd_loss(student, teacher, tau=float(arrays["tau"]), weight=float(arrays["loss_weight"])),
        student, teacher, arrays,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["mgd_same", "mgd_align"])
def test_mgd_golden(name: str) -> None:
    arrays = load(name)
    student, teacher = maps(arrays)
    loss = MGDLoss(student.shape[1], teacher.shape[1])
    load_weights(loss, arrays)
    check(loss(student, teacher, keep=torch.from_numpy(arrays["mask_keep"])), student, teacher, arrays)
    for key, parameter in loss.named_parameters():
        expected = torch.from_numpy(arrays["gw__" + key.replace(".", "__")])
        assert parameter.grad is not None
        assert (parameter.grad - expected).norm() <= 2e-5 * expected.norm()


def test_fgd_golden() -> None:
    arrays = load("fgd_same")
    student, teacher = maps(arrays)
    loss = FGDLoss(8, 8)
    load_weights(loss, arrays)
    boxes = [torch.from_numpy(arrays["box0"]), torch.from_numpy(arrays["box1"])]
    frame = tuple(int(x) for x in arrays["img_shape"])
    check(loss(student, teacher, boxes=boxes, frames=[frame, frame]), student, teacher, arrays)
    assert all(p.grad is not None for p in loss.parameters())


def test_fitnet_is_mean_square() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert fitnet_loss(student, teacher, weight=2.0) == pytest.approx(2 * float(((student - teacher) ** 2).mean()))


def test_mgd_keeps_the_stated_share() -> None:
    loss = MGDLoss(4, 4, mask_ratio=1.0)
    s, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert loss(s, t) == loss(s * 5, t), "everything masked: the student does not matter"
    kept = MGDLoss(4, 4, mask_ratio=0.0)
    assert kept(s, t) == kept(s, t, keep=torch.ones(2, 1, 8, 8))


def test_box_cells_are_inclusive_and_clipped_with_unclipped_area() -> None:
    front, back = box_masks([torch.tensor([[56.0, 56.0, 64.0, 64.0]])], [(64, 64)], (8, 8))
    assert front[0].count_nonzero() == 1, "cells 7..8 of 0..7"
    assert front[0][7, 7] == pytest.approx(1 / 4)
    assert back[0].sum() == pytest.approx(1.0)
    everything, empty = box_masks([torch.tensor([[0.0, 0.0, 64.0, 64.0]])], [(64, 64)], (8, 8))
    assert everything[0].min() > 0
    assert empty[0].sum() == 0


ONE = torch.zeros(1, 2, 3, 4)
BAD: list[tuple[str, Callable[[], Any]]] = [
    ("adapter", lambda: fitnet_loss(ONE, torch.zeros(1, 3, 3, 4))),
    ("sizes differ", lambda: fitnet_loss(ONE, torch.zeros(1, 2, 3, 5))),
    ("batch sizes", lambda: cwd_loss(ONE, torch.zeros(2, 2, 3, 4))),
    ("4-D", lambda: cwd_loss(ONE[0], ONE[0])),
    ("floating", lambda: fitnet_loss(ONE.int(), ONE)),
    ("empty", lambda: fitnet_loss(ONE[:, :, :0], ONE[:, :, :0])),
    ("tau", lambda: cwd_loss(ONE, ONE, tau=0.0)),
    ("mask_ratio", lambda: MGDLoss(2, 2, mask_ratio=1.5)),
    ("temperature", lambda: FGDLoss(2, 2, temperature=0.0)),
    ("box lists", lambda: FGDLoss(2, 2)(ONE, ONE, boxes=[], frames=[(8, 8)])),
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[m for m, _ in BAD])
def test_refusals(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
