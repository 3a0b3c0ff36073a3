"""The provided operators against torchvision and autograd, through mmcv's own functions."""

import math
from typing import Any

import pytest
import torch
import torchvision

from septet.kernels.detection import import_mmdet, install, provided

pytest.importorskip("mmcv", reason="SKIPPED FOR LACK OF the detection extra")


@pytest.fixture(scope="module", autouse=True)
def _mmcv() -> None:
    import_mmdet()
    if not provided():
        pytest.skip("compiled mmcv operators are installed: the provider is not used")


def boxes(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 50
    size = torch.rand(count, 2, generator=generator) * 40 + 2
    return torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator)


def test_install_is_idempotent() -> None:
    assert install() is True
    assert install() is True


def test_nms_equals_torchvision() -> None:
    from mmcv.ops import nms

    b, s = boxes()
    _, kept = nms(b, s, 0.4)
    assert kept.tolist() == torchvision.ops.nms(b, s, 0.4).tolist()
    assert 1 < len(kept) < len(b)


def test_nms_offset_counts_the_last_pixel() -> None:
    from mmcv.ops import nms

    pair = torch.tensor(
        [[0.0, 0.0, 9.0, 9.0], [0.0, 5.0, 9.0, 14.0]]
    )  # IoU 4/14 = .286; with the last pixel 5/15 = .333
    scores = torch.tensor([0.9, 0.8])
    assert len(nms(pair, scores, 0.3, offset=0)[1]) == 2
    assert len(nms(pair, scores, 0.3, offset=1)[1]) == 1


def test_nms_of_nothing_and_of_half_precision() -> None:
    from mmcv.ops import nms

    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].numel() == 0
    b, s = boxes(10)
    assert nms(b.half(), s.half(), 0.5)[1].dtype == torch.int64


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_torchvision(sampling: int, aligned: bool) -> None:
    from mmcv.ops import roi_align

    maps = torch.randn(2, 3, 16, 20, requires_grad=True)
    rois = torch.tensor([[0, 4.0, 4.0, 40.0, 30.0], [1, 10.0, 0.0, 60.0, 55.0]])
    ours = roi_align(maps, rois, (5, 5), 0.25, sampling, "avg", aligned)
    other = maps.detach().clone().requires_grad_()
    theirs = torchvision.ops.roi_align(other, rois, (5, 5), 0.25, sampling, aligned)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(maps.grad, other.grad)


def test_roi_align_gradcheck_and_no_max_pooling() -> None:
    from mmcv.ops import roi_align

    maps = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.7, 1.1, 4.9, 5.2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 2), 1.0, 2, "avg", True), (maps,))
    with pytest.raises(NotImplementedError, match="max"):
        roi_align(maps, rois, (2, 2), 1.0, 2, "max", True)


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_equals_torchvision_and_gradcheck(groups: int) -> None:
    from mmcv.ops import deform_conv2d

    generator = torch.Generator().manual_seed(1)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    x = torch.randn(2, 4, 5, 6, **options).requires_grad_()
    offset = (0.3 * torch.randn(2, 2 * 9 * 2, 5, 6, **options)).requires_grad_()
    weight = torch.randn(3 * groups, 4 // groups, 3, 3, **options).requires_grad_()
    ours = deform_conv2d(x, offset, weight, 1, 1, 1, groups, 2)
    torch.testing.assert_close(ours, torchvision.ops.deform_conv2d(x, offset, weight, padding=1))
    assert torch.autograd.gradcheck(
        lambda *a: deform_conv2d(*a, 1, 1, 1, groups, 2), (x, offset, weight), fast_mode=True
    )


@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deformable_convolution_gradcheck(with_bias: bool) -> None:
    from mmcv.ops import modulated_deform_conv2d

    generator = torch.Generator().manual_seed(2)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    x = torch.randn(1, 2, 5, 5, **options).requires_grad_()
    offset = (0.3 * torch.randn(1, 18, 3, 3, **options)).requires_grad_()
    mask = torch.rand(1, 9, 3, 3, **options).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, **options).requires_grad_()
    bias = torch.randn(2, **options).requires_grad_() if with_bias else None
    ours = modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1, 1, 1, 1)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, bias, stride=2, padding=1, mask=mask)
    torch.testing.assert_close(ours, expected)
    inputs: Any = (x, offset, mask, weight, bias) if with_bias else (x, offset, mask, weight)
    call = (lambda *a: modulated_deform_conv2d(*a, 2, 1)) if with_bias else (
        lambda *a: modulated_deform_conv2d(*a, None, 2, 1)
    )  # fmt: skip
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


def test_sigmoid_focal_loss_equals_torchvision() -> None:
    from mmcv.ops import sigmoid_focal_loss

    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 1, 0])  # 3 = background
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    ours = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "sum")
    theirs = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2.0, reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, None, "mean"), (logits,))


def test_sigmoid_focal_loss_weights_rows_by_class() -> None:
    from mmcv.ops import sigmoid_focal_loss

    logits, target = torch.zeros(2, 2), torch.tensor([0, 2])
    loss = sigmoid_focal_loss(logits, target, 2.0, 0.25, torch.tensor([3.0, 1.0]), "none")
    base = 0.25 * math.log(2)
    torch.testing.assert_close(loss, torch.tensor([[3 * 0.25 * base, 3 * 0.75 * base], [0.75 * base, 0.75 * base]]))


def test_everything_else_raises_with_the_remedy() -> None:
    from mmcv.ops import soft_nms

    b, s = boxes(5)
    with pytest.raises(NotImplementedError, match=r"softnms.*MMCV_WITH_OPS=1"):
        soft_nms(b, s, 0.5)
