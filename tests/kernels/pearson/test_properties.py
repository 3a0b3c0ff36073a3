"""What the loss promises beyond golden values: invariances, limits, memory, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from septet.kernels.pearson import pearson_loss, pearson_r, pkd_loss

IMPLS = ["closed_form", "reference"]


def pair(seed: int, n: int = 2, c: int = 3, h: int = 5, w: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, n, c, h, w, generator=generator, dtype=torch.float64)
    return maps[0], maps[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), log_scale=st.floats(-2, 4), shift=st.floats(-1e3, 1e3))
def test_affine_teacher_changes_nothing(seed: int, log_scale: float, shift: float) -> None:
    s, t = pair(seed)
    assert pearson_loss(s, t * 10**log_scale + shift).item() == pytest.approx(pearson_loss(s, t).item(), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 3), h=st.integers(1, 6), w=st.integers(2, 6))
def test_loss_is_one_minus_r(seed: int, n: int, h: int, w: int) -> None:
    s, t = pair(seed, n, 2, h, w)
    m = n * h * w
    expected = (m - 1) / m * (1 - pearson_r(s, t)).mean()
    assert pearson_loss(s, t, eps=0.0).item() == pytest.approx(float(expected), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), min_std=st.sampled_from([0.0, 0.9, 1.0]))
def test_implementations_agree(seed: int, min_std: float) -> None:
    s, t = pair(seed)
    values, grads = [], []
    for impl in IMPLS:
        leaf = s.clone().requires_grad_()
        loss = pearson_loss(leaf, t, impl=impl, min_std=min_std)
        loss.backward()
        values.append(loss.item())
        grads.append(leaf.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-10, abs=1e-12)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-12)


def test_gradcheck() -> None:
    s, t = pair(0)
    assert torch.autograd.gradcheck(lambda x: pearson_loss(x, t), (s.requires_grad_(),))


@pytest.mark.parametrize("impl", IMPLS)
def test_batch_order_changes_nothing(impl: str) -> None:
    s, t = pair(1, n=4)
    order = torch.tensor([2, 0, 3, 1])
    assert pearson_loss(s[order], t[order], impl=impl).item() == pytest.approx(pearson_loss(s, t, impl=impl).item())


@pytest.mark.parametrize("impl", IMPLS)
def test_perfect_correlation_is_tiny_and_never_negative(impl: str) -> None:
    for seed in range(20):
        t = pair(seed, c=8)[1].float()
        loss = pearson_loss(3 * t + 2, t, impl=impl).item()
        assert 0 <= loss < 1e-6


@pytest.mark.parametrize("impl", IMPLS)
def test_teacher_gets_no_gradient(impl: str) -> None:
    s, t = (x.requires_grad_() for x in pair(2))
    pearson_loss(s, t, impl=impl).backward()
    assert s.grad is not None
    assert t.grad is None


@pytest.mark.parametrize("impl", IMPLS)
def test_dead_channels_are_left_out(impl: str) -> None:
    s, t = pair(3)
    s = s.clone()
    s[:, 0] = 0.5
    s.requires_grad_()
    loss = pearson_loss(s, t, min_std=1e-3, impl=impl)
    loss.backward()
    assert s.grad is not None
    assert s.grad[:, 0].abs().max() == 0
    rest = pearson_loss(s[:, 1:].detach(), t[:, 1:])
    assert loss.item() == pytest.approx(rest.item() * 2 / 3), "the mean still runs over all channels"
    dead_teacher = t.clone()
    dead_teacher[:, 1] = 0
    kept = pearson_loss(s.detach(), dead_teacher, min_std=1e-3)
    assert kept > rest * 1 / 3, "min_std looks at the student only"


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_passes_on(impl: str) -> None:
    s, t = pair(4)
    t = t.clone()
    t[0, 0, 0, 0] = float("nan")
    assert pearson_loss(s, t, impl=impl).isnan()
    assert pearson_loss(t, s, impl=impl, min_std=0.1).isnan()


def test_nothing_is_saved_beside_the_maps() -> None:
    s, t = (x.float() for x in pair(5, h=32, w=32))
    s.requires_grad_()
    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        pkd_loss(s, t)
    storages = {s.untyped_storage().data_ptr(), t.untyped_storage().data_ptr()}
    extra = [x for x in saved if x.untyped_storage().data_ptr() not in storages]
    assert sum(x.numel() for x in extra) <= 10 * s.shape[1]


def test_non_contiguous_maps() -> None:
    s, t = (x.float() for x in pair(6, c=300, h=16, w=16))
    last = s.to(memory_format=torch.channels_last).requires_grad_()
    plain = s.clone().requires_grad_()
    for leaf in (last, plain):
        pearson_loss(leaf, t).backward()
    torch.testing.assert_close(last.grad, plain.grad)


def test_mixed_dtypes_are_read_in_float32() -> None:
    s, t = pair(7)
    s32 = s.float().requires_grad_()
    loss = pearson_loss(s32, t.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(pearson_loss(s32.detach(), t.bfloat16().float()).item(), rel=1e-6)
    half = s.half().requires_grad_()
    pearson_loss(half, t.float()).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.float16


def test_width_only_mismatch_is_resized() -> None:
    s, t = torch.randn(1, 2, 4, 6), torch.randn(1, 2, 4, 8)
    assert pkd_loss(s, t).isfinite()
    assert pkd_loss(s, t, resize="teacher").isfinite()


def test_constant_side_has_no_correlation() -> None:
    s, t = pair(8)
    assert pearson_r(torch.full_like(s, 0.1), t).abs().max() == 0
    assert pearson_r(s, s).sub(1).abs().max() < 1e-12


A = torch.randn(2, 3, 4, 5)
BAD: list[tuple[str, Callable[[], Any]]] = [
    (r"1 levels, the teacher 2", lambda: pkd_loss([A], [A, A])),
    (r"0 levels", lambda: pkd_loss([], [])),
    (r"\(2, 3, 4, 5\).*\(2, 2, 4, 5\).*adapter", lambda: pkd_loss(A, A[:, :2])),
    (r"batch sizes differ", lambda: pkd_loss(A, A[:1])),
    (r"4-D", lambda: pearson_loss(A[0], A[0])),
    (r"floating", lambda: pearson_loss(A.int(), A)),
    (r"teacher's.*floating", lambda: pearson_loss(A, A.int())),
    (r"at least 2 values", lambda: pearson_loss(A[:1, :, :1, :1], A[:1, :, :1, :1])),
    (r"sizes differ", lambda: pearson_loss(A, A[..., :4])),
    (r"sizes differ", lambda: pkd_loss(A, A[..., :4], resize="never")),
    (r"sizes differ", lambda: pearson_r(A, A[..., :4])),
    (r"unknown impl 'fast'", lambda: pearson_loss(A, A, impl="fast")),
    (r"unknown resize 'both'", lambda: pkd_loss(A, A, resize="both")),
    (r"eps", lambda: pearson_loss(A, A, eps=-1.0)),
    (r"min_std", lambda: pearson_loss(A, A, min_std=-1.0)),
    (r"empty", lambda: pkd_loss(A[..., :0], A)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_refusals(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
