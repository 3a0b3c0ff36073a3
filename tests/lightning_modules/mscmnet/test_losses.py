"""Losses: bad input, corner cases, streams of unequal size."""

import pytest
import torch

from septet.lightning_modules.mscmnet.losses import (
    batch_hard_triplet,
    hetero_center_triplet,
    quadruple_center_triplet,
    weighted_regularized_triplet,
)


def batch(p=3, k=2, d=5):
    g = torch.Generator().manual_seed(0)
    return torch.randn(4 * p * k, d, generator=g), torch.arange(p).repeat_interleave(k).repeat(4)


def test_given_streams_may_come_in_any_order():
    x, y = batch()
    streams = torch.arange(4).repeat_interleave(6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for alpha in (0.0, 0.4):
        plain = quadruple_center_triplet(x, y, alpha=alpha)
        torch.testing.assert_close(
            quadruple_center_triplet(x[order], y[order], streams=streams[order], alpha=alpha), plain
        )


def test_rows_per_class_and_stream_may_differ():
    x, y = batch()
    streams = torch.arange(4).repeat_interleave(6)
    kept = torch.ones(24, dtype=torch.bool)
    kept[[0, 9]] = False
    assert torch.isfinite(quadruple_center_triplet(x[kept], y[kept], streams=streams[kept], alpha=0.5))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_one_image_per_identity_and_equal_images_have_finite_gradients(alpha):
    for x, y in (batch(k=1), (torch.ones(24, 5), batch()[1])):
        x.requires_grad_()
        quadruple_center_triplet(x, y, alpha=alpha).backward()
        assert torch.isfinite(x.grad).all()
        x.grad = None


def test_half_precision_is_widened():
    x, y = batch()
    for loss in (quadruple_center_triplet, batch_hard_triplet, weighted_regularized_triplet, hetero_center_triplet):
        out = loss(x.bfloat16(), y)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, loss(x, y), rtol=0.03, atol=0.03)


def test_released_negatives_fade_out_and_stable_ones_do_not():
    x, y = batch()
    far = 100 * x
    released, stable = weighted_regularized_triplet(far, y), weighted_regularized_triplet(far, y, stable=True)
    assert released > stable + 10
    torch.testing.assert_close(
        weighted_regularized_triplet(x, y), weighted_regularized_triplet(x, y, stable=True), rtol=0, atol=1e-3
    )


def test_bad_input():
    x, y = batch()
    with pytest.raises(ValueError, match="23 rows are no multiple of 4"):
        quadruple_center_triplet(x[:23], y[:23])
    wrong = y.clone()
    wrong[7] = 2
    with pytest.raises(ValueError, match="differ between the quarters at row 1"):
        quadruple_center_triplet(x, wrong)
    with pytest.raises(ValueError, match="1 class"):
        quadruple_center_triplet(x, torch.zeros(24, dtype=torch.int64))
    streams = torch.arange(4).repeat_interleave(6)
    with pytest.raises(ValueError, match="class 0 has no row in stream 3"):
        quadruple_center_triplet(x[:18], y[:18], streams=streams[:18])
    with pytest.raises(ValueError, match="alpha=2"):
        quadruple_center_triplet(x, y, alpha=2)
    for loss in (batch_hard_triplet, weighted_regularized_triplet, hetero_center_triplet):
        with pytest.raises(ValueError, match=r"one class|1 class"):
            loss(x, torch.zeros(24, dtype=torch.int64))
