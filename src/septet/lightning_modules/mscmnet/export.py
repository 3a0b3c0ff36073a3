"""The two encoders as ONNX: stem mean, trunk, BN-neck, L2 norm; dynamic batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from septet.lightning_modules.mscmnet.model import Modality


class _Encoder(nn.Module):
    """Images ``(N, 3, H, W)`` to the normalised bn feature ``(N, F)``."""

    def __init__(self, net: Any, modality: Modality) -> None:
        super().__init__()
        self.net, self.modality = net, modality

    def forward(self, images: Tensor) -> Tensor:
        """The reported feature."""
        return cast(Tensor, self.net.embed(images, self.modality).bn)


def export_onnx(module: Any, folder: str | Path, *, image_size: tuple[int, int], opset: int = 18) -> dict[str, Path]:
    """Write ``encode_visible.onnx`` and ``encode_infrared.onnx``.

    Args:
        module: MSCMNet or AGW (the LightningModule or its network).
        folder: where to write.
        image_size: height and width; must be the network's.
        opset: of ONNX.

    Returns:
        ``{"encode_visible": path, "encode_infrared": path}``.

    Raises:
        ValueError: another image size. ImportError: the exporter's packages are missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("ONNX export needs the reid extra: pip install 'septet[reid]'") from error
    if getattr(module, "net", "absent") is None:
        module.configure_model()
    net = getattr(module, "net", module)
    if tuple(image_size) != tuple(net.image_size):
        raise ValueError(f"image_size {tuple(image_size)}: the network was built for {tuple(net.image_size)}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    was_training = net.training
    net.eval()
    paths = {}
    modalities: tuple[Modality, ...] = ("visible", "infrared")
    for modality in modalities:
        name = f"encode_{modality}"
        paths[name] = target / f"{name}.onnx"
        _export(_Encoder(net, modality), image_size, paths[name], opset)
    net.train(was_training)
    return paths


def _export(encoder: nn.Module, image_size: tuple[int, int], path: Path, opset: int) -> None:
    """One encoder."""
    parameter = next(encoder.parameters())
    example = torch.zeros(2, 3, *image_size, device=parameter.device, dtype=parameter.dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder.eval(), (example,), path, input_names=["images"], output_names=["features"], opset_version=opset,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
