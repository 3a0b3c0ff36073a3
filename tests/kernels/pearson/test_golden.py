"""The loss and its gradient against golden values, both implementations, also compiled."""

import numpy as np
import pytest
import torch
from tests.support.paths import golden
from torch import Tensor

from septet.kernels.pearson import pearson_r, pkd_loss

CASES = [
    "same_b1_f32", "same_b1_f64", "same_b1_bf16", "same_b1_autocast_bf16",
    "correlated_b2_f32_lw1", "correlated_b2_f32_lw6", "correlated_b2_f32_lw10", "correlated_b2_f16",
    "mismatch_up_resizestu_f32", "mismatch_up_resizestu_f64", "mismatch_up_resizestu_bf16",
    "mismatch_down_resizetea_f32", "mismatch_odd_resizestu_f32",
    "scale_base_f32", "scale_student1e4_f32", "scale_teacher1e4_f32", "scale_teacher1e-4_f32",
    "scale_both1e4_offset1e4_f32", "affine_exact_f32", "affine_negative_f32", "const_channels_f32",
]  # fmt: skip
LOSS_TOL = {torch.float64: 1e-10}
GRAD_TOL = {torch.float32: 3e-5, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 6e-3}


def load(case: str) -> tuple[dict[str, np.ndarray], torch.dtype, list[Tensor], list[Tensor]]:
    with np.load(golden("pkd", f"pkd_{case}.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    dtype = getattr(torch, str(arrays["dtype"]).removeprefix("torch."))
    student = [torch.from_numpy(arrays[f"s{i}"]).to(dtype).requires_grad_() for i in range(4)]
    teacher = [torch.from_numpy(arrays[f"t{i}"]).to(dtype) for i in range(4)]
    return arrays, dtype, student, teacher


def channel_error(grad: Tensor, expected: Tensor, student: Tensor, weight: float) -> float:
    g, e, s = (x.detach().double().transpose(0, 1).flatten(1) for x in (grad, expected, student))
    natural = weight / (s.shape[0] * s.shape[1] ** 0.5 * (s.std(dim=1) + 1e-6))
    return float(((g - e).norm(dim=1) / torch.maximum(e.norm(dim=1), natural)).max())


def check(case: str, impl: str, compiled: bool = False) -> None:
    arrays, dtype, student, teacher = load(case)
    weight = float(arrays["loss_weight"])
    resize = "student" if bool(arrays["resize_stu"]) else "teacher"
    function = torch.compile(pkd_loss) if compiled else pkd_loss
    with torch.autocast("cpu", torch.bfloat16, enabled=str(arrays["autocast"]) != "None"):
        loss = function(student, teacher, weight=weight, resize=resize, impl=impl)
    loss.backward()
    expected = float(arrays["loss_f64"])
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(loss.item() - expected) <= LOSS_TOL.get(dtype, 1e-5) * (1 + abs(expected))
    for i, s in enumerate(student):
        assert s.grad is not None
        assert s.grad.dtype == dtype
        error = channel_error(s.grad, torch.from_numpy(arrays[f"grad_s{i}_f64"]), s, weight)
        assert error <= GRAD_TOL[dtype], (i, error)


@pytest.mark.parametrize("impl", ["closed_form", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(case: str, impl: str) -> None:
    check(case, impl)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "impl"),
    [("same_b1_f64", "closed_form"), ("mismatch_up_resizestu_bf16", "closed_form"), ("same_b1_f64", "reference")],
)
def test_compiled(case: str, impl: str) -> None:
    check(case, impl, compiled=True)


@pytest.mark.parametrize("case", ["same_b1_f64", "correlated_b2_f32_lw1", "const_channels_f32", "affine_negative_f32"])
def test_correlation(case: str) -> None:
    arrays, dtype, student, teacher = load(case)
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        expected = torch.from_numpy(arrays[f"pearson_r{i}"]).double()
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(pearson_r(s, t).double(), expected, rtol=0, atol=tolerance)


def test_golden_levels_add_up() -> None:
    arrays, _, student, teacher = load("correlated_b2_f32_lw6")
    for i in range(4):
        level = pkd_loss(student[i], teacher[i], weight=6.0).item()
        assert level == pytest.approx(float(arrays[f"loss_level{i}"]), rel=1e-5)
