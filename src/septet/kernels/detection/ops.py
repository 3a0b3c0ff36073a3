"""Operators with the calling convention of mmcv 2.x's extension: results are written into the given outputs.

Each is backed by ``torchvision.ops`` (focal loss by torch). Half and bfloat16 on a CPU are computed in float32,
which torchvision lacks there. Backward passes recompute the forward one under autograd.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional


def _working_dtype(maps: Tensor) -> torch.dtype:
    low = maps.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if low and maps.device.type == "cpu" else maps.dtype


def _write(targets: Sequence[Tensor], values: Sequence[Tensor | None]) -> None:
    for target, value in zip(targets, values, strict=True):
        if value is not None:
            target.copy_(value)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the kept boxes, highest score first.

    Args:
        boxes: ``(n, 4)`` xyxy.
        scores: ``(n,)``.
        iou_threshold: boxes overlapping a better one by more are dropped.
        offset: 1 where a box's width is ``x2 - x1 + 1``.

    Returns:
        ``(kept,)`` int64.
    """
    boxes = boxes.to(_working_dtype(boxes))
    if offset:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, float(offset), float(offset)])
    kept: Tensor = torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)
    return kept


def _roi_align(
    maps: Tensor,
    rois: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode == 0:
        raise NotImplementedError(
            "roi_align with pool_mode='max' needs the compiled mmcv operators: MMCV_WITH_OPS=1 pip install "
            "--no-build-isolation onedl-mmcv (or use pool_mode='avg')"
        )
    dtype = _working_dtype(maps)
    size = (aligned_height, aligned_width)
    pooled: Tensor = torchvision.ops.roi_align(
        maps.to(dtype), rois.to(dtype), size, spatial_scale, sampling_ratio, aligned
    )
    return pooled


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: int | float | bool
) -> None:
    """Average RoIAlign of ``(N, C, H, W)`` maps at ``(n, 5)`` rois (batch index, xyxy) into output ``(n, C, h, w)``."""
    output.copy_(_roi_align(input, rois, **options))  # type: ignore[arg-type]


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: int | float
) -> None:
    """Gradient of :func:`roi_align_forward` for the maps, written into ``grad_input`` ``(N, C, H, W)``."""
    dtype = _working_dtype(grad_input)
    with torch.enable_grad():
        maps = torch.zeros_like(grad_input, dtype=dtype).requires_grad_()
        pooled = _roi_align(maps, rois, **options)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(pooled, maps, grad_output.to(dtype))
    grad_input.copy_(grad)


def _deform(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, o: dict[str, Any]
) -> Tensor:
    """Deformable convolution from either family of option names."""
    stride = (o.get("dH", o.get("stride_h")), o.get("dW", o.get("stride_w")))
    padding = (o.get("padH", o.get("pad_h")), o.get("padW", o.get("pad_w")))
    dilation = (o.get("dilationH", o.get("dilation_h")), o.get("dilationW", o.get("dilation_w")))
    dtype = _working_dtype(input)
    rest = [None if x is None else x.to(dtype) for x in (bias, mask)]
    out: Tensor = torchvision.ops.deform_conv2d(
        input.to(dtype), offset.to(dtype), weight.to(dtype), rest[0], stride, padding, dilation, rest[1]
    )
    return out


def _deform_grads(
    wanted: Sequence[int], inputs: Sequence[Tensor | None], grad_output: Tensor, options: dict[str, int]
) -> tuple[Tensor | None, ...]:
    """Gradients of the wanted ones among (input, offset, weight, bias, mask), by recomputation."""
    with torch.enable_grad():
        leaves: list[Any] = [
            None if x is None else x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)
        ]
        out = _deform(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], options)
    sources = [leaves[i] for i in wanted]
    return torch.autograd.grad(out, sources, grad_output.to(out.dtype), allow_unused=True)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options: int
) -> None:
    """Deformable convolution (version 1) into ``output``; offsets are (y, x) pairs for each kernel point."""
    output.copy_(_deform(input, offset, weight, None, None, options))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` for maps and offsets."""
    grads = _deform_grads((0, 1), (input, offset, weight, None, None), grad_output, options)
    _write((grad_input, grad_offset), grads)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float = 1.0,
    **options: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` for the weight, times ``scale``, added to ``grad_weight``."""
    (grad,) = _deform_grads((2,), (input, offset, torch.zeros_like(grad_weight), None, None), grad_output, options)
    assert grad is not None
    grad_weight.add_(grad.to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **options: int,
) -> None:
    """Modulated deformable convolution (version 2) into ``output``."""
    output.copy_(_deform(input, offset, weight, bias if with_bias else None, mask, options))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **options: int,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward` for all five inputs."""
    wanted = (0, 1, 2, 3, 4) if with_bias else (0, 1, 2, 4)
    grads = _deform_grads(wanted, (input, offset, weight, bias if with_bias else None, mask), grad_output, options)
    targets = (grad_input, grad_offset, grad_weight, grad_bias, grad_mask)
    _write([targets[i] for i in wanted], grads)


def _focal(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Sigmoid focal loss of each element ``(n, C)``; target C means background."""
    classes = input.shape[1]
    positive = functional.one_hot(target, classes + 1)[:, :classes].to(input.dtype)
    p = input.sigmoid()
    loss = -alpha * positive * (1 - p) ** gamma * functional.logsigmoid(input)
    loss = loss - (1 - alpha) * (1 - positive) * p**gamma * functional.logsigmoid(-input)
    if weight.numel():
        loss = loss * torch.cat([weight, weight.new_ones(1)])[target].unsqueeze(1)
    return loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss ``(n, C)`` of logits and class targets ``(n,)`` into ``output``.

    Rows are weighted by ``weight[target]`` when weights are given; background rows keep weight 1.
    """
    output.copy_(_focal(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Derivative of each element of :func:`sigmoid_focal_loss_forward` for its own logit."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        total = _focal(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(total, logits)[0])


def get_compiler_version() -> str:
    """What mmcv reports as its compiler."""
    return "not compiled (septet.kernels.detection)"


def get_compiling_cuda_version() -> str:
    """What mmcv reports as its CUDA version."""
    return "not available"
