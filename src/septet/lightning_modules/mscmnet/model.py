"""MSCMNet (arXiv 2311.14395) and the AGW baseline, pure torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from septet.lightning_modules.mscmnet.blocks import MicroTrunk, MIMBStage, NonLocal, ResNetTrunk, at_least_float32
from septet.lightning_modules.mscmnet.checks import read_weights

__all__ = ["AGWNet", "Embedding", "MIMBStage", "NonLocal", "QuadStreamNet", "parameter_count"]

STREAMS = ("visible", "visible_aug", "infrared", "infrared_aug")
TRUNKS: dict[str, Any] = {"resnet50": ResNetTrunk, "micro": MicroTrunk}
Modality = Literal["visible", "infrared"]


class Embedding(NamedTuple):
    """L2-normalised float32 features of an image: pooled, and after the BN-neck (the reported one)."""

    pool: Tensor
    bn: Tensor


class _CrossModalNet(nn.Module):
    """Stems per stream, a shared trunk, BN-neck and classifier."""

    residual = False

    def __init__(
        self, num_classes: int, image_size: tuple[int, int], trunk: str, streams: tuple[str, ...], inner: int | None
    ) -> None:
        super().__init__()
        height, width = image_size
        if height % 16 or width % 16 or height < 16 or width < 16:
            raise ValueError(f"image_size {height} x {width}: both sides must be multiples of 16")
        if trunk not in TRUNKS:
            raise ValueError(f"unknown trunk {trunk!r}: choose one of {', '.join(TRUNKS)}")
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: at least two identities are needed")
        self.image_size = (height, width)
        kind = TRUNKS[trunk]
        self.trunk: Any = kind(inner)
        self.stems = nn.ModuleDict({name: kind.stem() for name in streams})
        self.grid = (height // kind.reduction, width // kind.reduction)
        self.neck = nn.BatchNorm1d(kind.out_channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(kind.out_channels, num_classes, bias=False)
        nn.init.normal_(self.neck.weight, 1.0, 0.01)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.mimb = nn.ModuleList()

    def load_imagenet(self, path: str | Path) -> None:
        """Start stems and trunk from a local file of torchvision's ResNet-50 weights.

        Raises:
            ValueError: if the trunk is not ResNet-50 or the file lacks its tensors.
        """
        if not isinstance(self.trunk, ResNetTrunk):
            raise ValueError("weights need trunk 'resnet50': the micro trunk starts from random numbers")
        state = read_weights(path)
        own = {k: v for k, v in state.items() if k.startswith("layer")}
        missing, unexpected = self.trunk.load_state_dict(own, strict=False)
        stem = {k: state.get(k) for k in state if k.startswith(("conv1.", "bn1."))}
        if unexpected or any(m.startswith("layer") for m in missing) or "conv1.weight" not in stem:
            raise ValueError(f"{path} does not hold torchvision's ResNet-50: missing {missing[:3]}, {unexpected[:3]}")
        renamed = {k.replace("conv1.", "0.").replace("bn1.", "1."): v for k, v in stem.items()}
        for module in self.stems.values():
            module.load_state_dict(renamed)

    def pooled(self, x0: Tensor) -> Tensor:
        """Feature f ``(N, F)`` of stem outputs ``(N, C, h, w)``."""
        x1, x2, x = self.trunk.maps(x0)
        sources = (x0, x1, x2, None)
        for stage, source in zip(self.mimb, sources, strict=False):
            x = x + stage(x, source) if self.residual else stage(x, source)
        pool: Tensor = self.trunk.pool(x)
        return pool

    def _head(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        pool = self.pooled(x0)
        return pool, at_least_float32(self.classifier(self.neck(pool)))

    def _stem_mean(self, images: Tensor, modality: Modality) -> Tensor:
        """Mean of the outputs of the modality's stems."""
        if modality not in ("visible", "infrared"):
            raise ValueError(f"unknown modality {modality!r}: choose 'visible' or 'infrared'")
        outputs = [stem(images) for name, stem in self.stems.items() if name.startswith(modality)]
        mean: Tensor = outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2
        return mean

    def embed(self, images: Tensor, modality: Modality) -> Embedding:
        """Features of images ``(N, 3, H, W)``, both ``(N, F)``; the trunk runs once."""
        pool = self.pooled(self._stem_mean(images, modality))
        return Embedding(F.normalize(pool.float()), F.normalize(self.neck(pool).float()))


class QuadStreamNet(_CrossModalNet):
    """MSCMNet: four stems, one trunk, MIMB between layer3 and layer4.

    Args:
        num_classes: training identities.
        image_size: height and width, multiples of 16.
        trunk: ``resnet50``, or ``micro`` for CPUs.
        residual: add each MIMB stage to its input; False is the released form, which presumes ImageNet weights.
        head_dim: wanted head width of MIMB.
        gamma: share of the shallow map in MIMB.
        weights: local file of ImageNet weights.
        mimb: False leaves MIMB out (ablation).

    Raises:
        ValueError: image size no multiple of 16, unknown trunk, fewer than two classes.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (384, 192),
        *,
        trunk: str = "resnet50",
        residual: bool = False,
        head_dim: int = 9,
        gamma: float = 0.1,
        weights: str | None = None,
        mimb: bool = True,
    ) -> None:
        super().__init__(num_classes, image_size, trunk, STREAMS, None)
        self.residual = residual
        options: dict[str, Any] = {"head_dim": head_dim, "gamma": gamma}
        for channels, stride in (*self.trunk.sources, (None, None)) if mimb else ():
            self.mimb.append(
                MIMBStage(self.trunk.channels, self.grid, source_channels=channels, source_stride=stride, **options)
            )
        if weights is not None:
            self.load_imagenet(weights)

    def forward(self, v: Tensor, v_aug: Tensor, i: Tensor, i_aug: Tensor) -> tuple[Tensor, Tensor]:
        """Four streams ``(N, 3, H, W)`` to f ``(4N, F)`` and logits ``(4N, C)``, in the order V, V', I, I'."""
        streams = zip(STREAMS, (v, v_aug, i, i_aug), strict=True)
        return self._head(torch.cat([self.stems[name](x) for name, x in streams]))


class AGWNet(_CrossModalNet):
    """AGW (Ye et al., TPAMI 2021): two stems, the same trunk with one inner channel in the non-local blocks, no MIMB.

    Args:
        num_classes: training identities.
        image_size: height and width, multiples of 16.
        inner: inner channels of the non-local blocks.
        trunk: ``resnet50`` or ``micro``.
        weights: local file of ImageNet weights.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (288, 144),
        *,
        inner: int | None = 1,
        trunk: str = "resnet50",
        weights: str | None = None,
    ) -> None:
        super().__init__(num_classes, image_size, trunk, ("visible", "infrared"), inner)
        if weights is not None:
            self.load_imagenet(weights)

    def forward(self, v: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """Two streams ``(N, 3, H, W)`` to f ``(2N, F)`` and logits ``(2N, C)``."""
        return self._head(torch.cat([self.stems["visible"](v), self.stems["infrared"](i)]))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters that get a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
