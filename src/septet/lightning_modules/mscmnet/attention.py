"""What MIMB attends to: the change each stage's attention makes in the image, and its weights between channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from septet.lightning_modules.mscmnet.model import Modality, QuadStreamNet

TITLES = ("stem", "layer1", "layer2", "itself")


class StageMaps(NamedTuple):
    """One stage.

    Attributes:
        change: ``(N, h, w)``, mean absolute output of the attention per position.
        weights: ``(C, C)``, attention between channels, mean over heads and images.
    """

    change: Tensor
    weights: Tensor


@torch.no_grad()
def mimb_maps(net: QuadStreamNet, images: Tensor, modality: Modality) -> list[StageMaps]:
    """Maps of all stages for images ``(N, 3, H, W)``; the network keeps its mode.

    Raises:
        ValueError: the network has no MIMB.
    """
    if not len(net.mimb):
        raise ValueError("this network has no MIMB: build it with mimb=True")
    seen: list[tuple[Any, ...]] = []
    hooks = [stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs)) for stage in net.mimb]
    training = net.training
    try:
        net.eval()
        net.embed(images, modality)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    maps = []
    for stage, (x, source) in zip(net.mimb, seen, strict=True):
        pattern, z = stage.tokens(x, source)  # type: ignore[operator]
        change = stage.attn(pattern, z).abs().mean(1).unflatten(1, x.shape[2:])  # type: ignore[operator]
        maps.append(StageMaps(change, stage.attn.weights(pattern).mean((0, 1))))  # type: ignore[operator, union-attr]
    return maps


def mimb_figure(net: Any, images: Tensor, modality: Modality) -> Any:
    """Images beside each stage's change; the channel attention below.

    Args:
        net: with MIMB.
        images: normalised, ``(N, 3, H, W)``.
        modality: of the images.
    """
    from matplotlib.figure import Figure

    maps = mimb_maps(net, images, modality)
    count = len(images)
    figure = Figure(figsize=(1.9 * (len(maps) + 1), 2.3 * (count + 1)), layout="constrained")
    axes = figure.subplots(count + 1, len(maps) + 1, squeeze=False)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    pixels = ((images - low) / (high - low).clamp_min(1e-6)).permute(0, 2, 3, 1).cpu().numpy()
    for n in range(count):
        axes[n, 0].imshow(pixels[n])
        for s, stage in enumerate(maps, 1):
            axes[n, s].imshow(stage.change[n].float().cpu().numpy(), cmap="magma")
    for s, stage in enumerate(maps, 1):
        axes[count, s].imshow(stage.weights.float().cpu().numpy(), cmap="viridis")
        axes[0, s].set_title(f"pattern: {TITLES[s - 1]}", fontsize=9)
        axes[count, s].set_title("channel attention", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle("MIMB: change by each stage's attention, and its weights between channels", fontsize=10)
    return figure
