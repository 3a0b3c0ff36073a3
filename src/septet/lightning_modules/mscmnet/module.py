"""MSCMNet and AGW as LightningModules."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from septet.lightning_modules.mscmnet.common import CrossModalReID, Triplet
from septet.lightning_modules.mscmnet.model import AGWNet, QuadStreamNet


class MSCMNet(CrossModalReID):
    """Multi-scale semantic correlation mining (Pattern Recognition 2024, arXiv 2311.14395).

    Args:
        num_classes: training identities.
        image_size: height and width.
        alpha: weight of the intra-stream term of QCT, 0 = released.
        margin: rho of QCT (margin of the other triplets).
        triplet: metric loss.
        label_smoothing: of the cross-entropy.
        gather_centers: centres over all processes; equal to one process.
        trunk: ``resnet50`` or ``micro``.
        residual: residual around MIMB's stages (ours).
        mimb: False leaves MIMB out.
        head_dim: head width of MIMB.
        gamma: share of the shallow map in MIMB.
        weights: local file of ImageNet weights.
        lr: of neck and classifier.
        base_factor: share of ``lr`` for everything else.
        weight_decay: on all parameters, as released.
        schedule: arguments of :func:`warmup_multistep`.
        interval: unit of the schedule, ``epoch`` or ``step``.
        channels_last: memory format of the network; faster on GPUs.
        compile: ``torch.compile`` the training step's network.
        tf32: let float32 products in training round their factors to TF32; bf16 values, such as those of the non-local
            blocks under autocast, are not rounded by it. Switches the whole process during the fit.
        flip_test: add the flipped image's features, normalised again.
        rerank: arguments of re-ranking, such as ``{k1: 20, k2: 6, weight: 0.3}``; None = off.

    Raises:
        ValueError: unknown choices, image size no multiple of 16, ``num_classes`` unlike the data.
    """

    name: ClassVar[str] = "mscmnet"

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (384, 192),
        *,
        alpha: float = 0.0,
        margin: float = 0.7,
        triplet: Triplet = "qct",
        label_smoothing: float = 0.0,
        gather_centers: bool = False,
        trunk: Literal["resnet50", "micro"] = "resnet50",
        residual: bool = False,
        mimb: bool = True,
        head_dim: int = 9,
        gamma: float = 0.1,
        weights: str | None = None,
        lr: float = 0.1,
        base_factor: float = 0.1,
        weight_decay: float = 5e-4,
        schedule: dict[str, Any] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        channels_last: bool = False,
        compile: bool = False,
        tf32: bool = False,
        flip_test: bool = False,
        rerank: dict[str, Any] | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self._settings(arguments | {"image_size": list(image_size)})

    def configure_model(self) -> None:
        """Build the network once."""
        if self.net is None:
            keys = ("trunk", "residual", "head_dim", "gamma", "weights", "mimb")
            size = (self.hparams["image_size"][0], self.hparams["image_size"][1])
            self.finish_model(QuadStreamNet(self.hparams["num_classes"], size, **{k: self.hparams[k] for k in keys}))

    def forward_batch(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Four streams."""
        assert isinstance(self.net, nn.Module)
        pool, logits = self.net(batch.visible, batch.visible_aug, batch.infrared, batch.infrared_aug)
        return pool, logits, 4


class AGW(CrossModalReID):
    """The AGW baseline (TPAMI 2021): two streams, weighted regularised triplet.

    Args:
        num_classes: training identities.
        image_size: height and width.
        margin: of ``batch_hard`` and ``hetero_center``.
        triplet: metric loss; QCT needs four streams.
        label_smoothing: of the cross-entropy.
        gather_centers: metric loss over all processes' rows.
        trunk: ``resnet50`` or ``micro``.
        inner: inner channels of the non-local blocks.
        weights: local file of ImageNet weights.
        lr: of neck and classifier.
        base_factor: share of ``lr`` for everything else.
        weight_decay: on all parameters.
        schedule: arguments of :func:`warmup_multistep`.
        interval: unit of the schedule.
        channels_last: as :class:`MSCMNet`.
        compile: as :class:`MSCMNet`.
        tf32: as :class:`MSCMNet`.
        flip_test: add the flipped image's features.
        rerank: arguments of re-ranking; None = off.

    Raises:
        ValueError: as :class:`MSCMNet`; ``triplet="qct"``.
    """

    name: ClassVar[str] = "agw"

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (288, 144),
        *,
        margin: float = 0.3,
        triplet: Triplet = "wrt",
        label_smoothing: float = 0.0,
        gather_centers: bool = False,
        trunk: Literal["resnet50", "micro"] = "resnet50",
        inner: int = 1,
        weights: str | None = None,
        lr: float = 0.1,
        base_factor: float = 0.1,
        weight_decay: float = 5e-4,
        schedule: dict[str, Any] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        channels_last: bool = False,
        compile: bool = False,
        tf32: bool = False,
        flip_test: bool = False,
        rerank: dict[str, Any] | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if triplet == "qct":
            raise ValueError("triplet 'qct' needs four streams: use MSCMNet, or 'wrt' with AGW")
        super().__init__()
        self._settings(arguments | {"image_size": list(image_size)})

    def configure_model(self) -> None:
        """Build the network once."""
        if self.net is None:
            size = (self.hparams["image_size"][0], self.hparams["image_size"][1])
            keys = ("inner", "trunk", "weights")
            self.finish_model(AGWNet(self.hparams["num_classes"], size, **{k: self.hparams[k] for k in keys}))

    def forward_batch(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Two streams: the first of each modality."""
        assert isinstance(self.net, nn.Module)
        pool, logits = self.net(batch.visible, batch.infrared)
        return pool, logits, 2
