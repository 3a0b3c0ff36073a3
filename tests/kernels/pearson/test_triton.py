"""The fused kernels against golden values: interpreted on a CPU in a child process, and for real on a GPU."""

import os
import subprocess
import sys

import pytest
import torch
from tests.kernels.pearson.test_golden import GRAD_TOL, channel_error, load
from tests.support.paths import ROOT

from septet.kernels.pearson import pkd_loss

INTERPRETED = """
import torch
from septet.kernels.pearson import triton as fused
from tests.kernels.pearson.test_golden import GRAD_TOL, channel_error, load

for case in ("same_b1_f32", "same_b1_bf16", "const_channels_f32"):
    arrays, dtype, student, teacher = load(case)
    total = 0.0
    for i, (s, t) in enumerate(zip(student[1:], teacher[1:], strict=True), start=1):
        stats = fused.statistics(s.detach(), t, 1e-6, 0.0)
        weight = float(arrays["loss_weight"])
        grad = fused.gradient(s.detach(), t, stats, torch.tensor(weight))
        assert grad.dtype == dtype
        error = channel_error(grad, torch.from_numpy(arrays[f"grad_s{i}_f64"]), s, weight)
        assert error <= GRAD_TOL[dtype], (case, i, error)
        if dtype == torch.float32:
            expected = float(arrays[f"loss_level{i}"])
            assert abs(weight * stats[0].mean().item() - expected) <= 1e-5 * (1 + abs(expected)), (case, i)
dead = fused.statistics(torch.full((1, 2, 4, 4), 0.5), torch.randn(1, 2, 4, 4), 1e-6, 1e-3)
assert dead[[0, 1, 3]].abs().max() == 0
print("good")
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run for real here")
def test_interpreted_kernels() -> None:
    pytest.importorskip("triton", reason="SKIPPED FOR LACK OF triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "good" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "case", ["same_b1_f32", "same_b1_f64", "same_b1_bf16", "const_channels_f32", "mismatch_up_resizestu_f32"]
)
def test_on_a_gpu(case: str) -> None:
    arrays, dtype, student, teacher = load(case)
    weight = float(arrays["loss_weight"])
    cuda = [x.detach().cuda().requires_grad_() for x in student]
    loss = pkd_loss(cuda, [x.cuda() for x in teacher], weight=weight)
    loss.backward()
    expected = float(arrays["loss_f64"])
    assert abs(loss.item() - expected) <= 1e-5 * (1 + abs(expected))
    for i, s in enumerate(cuda):
        assert s.grad is not None
        error = channel_error(s.grad.cpu(), torch.from_numpy(arrays[f"grad_s{i}_f64"]), s.cpu(), weight)
        assert error <= GRAD_TOL[dtype]
