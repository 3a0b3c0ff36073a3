"""Frechet distances of clips with an extractor of the user's choice (FVD, FID)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from septet.kernels.frechet import frechet_from_features


class FeatureExtractor(nn.Module):
    """A network whose features are compared, under a name that says which.

    Args:
        module: maps preprocessed input to features ``(N, D)``.
        preprocess: maps uint8 clips ``(B, T, 3, H, W)`` to the module's input.
        name: such as ``i3d_kinetics400``.
        weights_path: file of the weights; its sha256 becomes part of :attr:`label`.
        kind: prefix of the metric's name: ``fvd``, ``fid`` or ``frd`` (anything that is not comparable).
    """

    def __init__(
        self, module: nn.Module, preprocess: Callable[[Tensor], Tensor], name: str,
        weights_path: str | Path | None = None, kind: str = "frd",
    ) -> None:  # fmt: skip
        super().__init__()
        self.module, self.preprocess, self.name, self.kind = module.eval(), preprocess, name, kind
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self.sha256 = "" if weights_path is None else hashlib.sha256(Path(weights_path).read_bytes()).hexdigest()

    @property
    def label(self) -> str:
        """Name and the first digits of the weights' sha256."""
        return f"{self.name}:{self.sha256[:12]}" if self.sha256 else self.name

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Features ``(N, D)`` of clips ``(B, T, 3, H, W)`` uint8."""
        features: Tensor = self.module(self.preprocess(clips))
        return features.flatten(1)


class _RandomConv3d(nn.Module):
    """Two strided 3-D convolutions with weights of seed 0; means and deviations over space and time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv3d(3, 16, 3, 2, 1), nn.Conv3d(16, 24, 3, 2, 1)
        for layer in (self.first, self.second):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / fan**0.5
            assert layer.bias is not None
            layer.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.relu(self.first(x))).flatten(2)
        return torch.cat([h.mean(2), h.std(2)], 1)


def random_conv3d() -> FeatureExtractor:
    """Untrained extractor ``random_conv3d_seed0``: logged as frd_random, never as fvd."""
    return FeatureExtractor(_RandomConv3d(), _unit_clips, "random_conv3d_seed0", kind="frd_random")


def i3d_kinetics400(path: str | Path) -> FeatureExtractor:
    """TorchScript I3D with 400 Kinetics logits on 224 px clips in [-1, 1] (FVD), weights by path."""
    return FeatureExtractor(_script(path), _clips_224, "i3d_kinetics400", path, kind="fvd")


def inception_fid(path: str | Path) -> FeatureExtractor:
    """TorchScript Inception with 2048-d pool3 features on 299 px frames in [-1, 1] (FID), weights by path."""
    return FeatureExtractor(_script(path), _frames_299, "inception_fid", path, kind="fid")


def torchscript(path: str | Path, size: int = 224) -> FeatureExtractor:
    """Any TorchScript module on clips ``(B, 3, T, size, size)`` in [-1, 1]."""
    return FeatureExtractor(_script(path), lambda c: _resized(c, size), Path(path).stem, path)


EXTRACTORS: dict[str, Callable[[str | Path], FeatureExtractor]] = {
    "fvd": i3d_kinetics400,
    "fid": inception_fid,
    "frd": torchscript,
}
"""What a TorchScript file is used for, by the key under which a configuration names it."""


def build_extractors(paths: Mapping[str, str | Path]) -> list[FeatureExtractor]:
    """The untrained extractor and those of the given files, in this order.

    Raises:
        FileNotFoundError: for a file that is not there; ValueError for one that is not TorchScript.
    """
    return [random_conv3d(), *(EXTRACTORS[kind](path) for kind, path in paths.items())]


def _script(path: str | Path) -> nn.Module:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no extractor weights {path}: none ship with septet, give a TorchScript file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch prefers export; published extractors are TorchScript
        try:
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as error:
            raise ValueError(f"extractor {path} is not a TorchScript file: save it with torch.jit.save") from error
    return module


def _unit_clips(clips: Tensor) -> Tensor:
    return clips.float().transpose(1, 2) / 127.5 - 1


def _resized(clips: Tensor, size: int) -> Tensor:
    """Squashed bilinearly to a square, ``(B, 3, T, size, size)`` in [-1, 1]."""
    flat = F.interpolate(clips.flatten(0, 1).float(), (size, size), mode="bilinear", align_corners=False)
    return _unit_clips(flat.unflatten(0, clips.shape[:2]))


def _clips_224(clips: Tensor) -> Tensor:
    return _resized(clips, 224)


def _frames_299(clips: Tensor) -> Tensor:
    return _resized(clips, 299).transpose(1, 2).flatten(0, 1)


class VideoFrechetDistance(Metric):
    """Frechet distance between features of real and generated clips.

    Args:
        extractor: gives features; its label belongs beside every number.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    @property
    def key(self) -> str:
        """Name under which the value is logged: ``frd_random``, or kind/label."""
        return (
            self.extractor.kind
            if self.extractor.kind == "frd_random"
            else f"{self.extractor.kind}/{self.extractor.label}"
        )

    def update(self, clips: Tensor, real: bool) -> None:
        """Add clips ``(B, T, 3, H, W)`` uint8.

        Raises:
            ValueError: clips of another type or shape.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[2] != 3:
            raise ValueError(f"clips {clips.dtype} of shape {tuple(clips.shape)}: expected uint8 (B, T, 3, H, W)")
        (self.real if real else self.fake).append(self.extractor(clips))

    def compute(self) -> Tensor:
        """The distance, 0-d float64, nan from less than two clips; warns of too few for a comparable number."""
        real, fake = (x if isinstance(x, Tensor) else torch.cat(x) for x in (self.real, self.fake))
        count = min(len(real), len(fake))
        if self.extractor.kind != "frd_random" and (count < 2 * real.shape[1] or count < 1000):
            warnings.warn(
                f"{self.key} from {count} samples of {real.shape[1]} features is biased: use at least "
                f"{max(1000, 2 * real.shape[1])}",
                UserWarning,
                stacklevel=2,
            )
        if count < 2:
            return torch.tensor(float("nan"), dtype=torch.float64)
        return frechet_from_features(real, fake)
