"""Frozen teachers, kept outside the module tree: never in checkpoints, never in training mode."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from septet.lightning_modules.pkd.checkpoints import LoadReport, load_strict, read_detector_state
from septet.lightning_modules.pkd.detectors import Geometry, Tap, build_detector, probe
from septet.lightning_modules.pkd.preprocess import Normalisation, convert_batch
from septet.lightning_modules.pkd.specs import TeacherSpec

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class Teacher:
    """A detector that only yields feature maps (and, for checks and pictures, boxes).

    Args:
        spec: what to load.
        tap: module whose output is handed out.

    Attributes:
        report: of the strict load; None with random weights.
        classes: names that the checkpoint says it was trained on; empty if it says nothing.
        geometry: strides, channels and padding divisor.

    Raises:
        ValueError: a checkpoint that does not fit.
    """

    def __init__(self, spec: TeacherSpec, tap: str = "neck") -> None:
        self.spec = spec
        self.report: LoadReport | None = None
        self.classes: tuple[str, ...] = ()
        with torch.random.fork_rng(devices=[]):
            self.model: Any = build_detector(
                spec.config, pretrained=False, initialise=spec.checkpoint is None, role="teacher"
            )
        if spec.checkpoint is not None:
            part = "teacher" if _holds_teacher(spec.checkpoint) else "student"
            state = read_detector_state(spec.checkpoint, part=part)
            self.report, self.classes = load_strict(self.model, state, required=("",)), state.classes
        self.model.requires_grad_(False)
        self.geometry: Geometry = probe(self.model, tap)
        self.normalisation = Normalisation.of(self.model.data_preprocessor)
        self.tap = Tap(self.model, tap)
        self.set_mode()
        self._extract: Any = self.model.extract_feat
        if spec.compile:
            self._extract = torch.compile(self._extract, dynamic=True)  # type: ignore[arg-type]

    def source(self) -> str:
        """One line: the configuration, and the checkpoint that was loaded."""
        config = self.spec.config
        name = config.get("_base_", config.get("type", "dictionary")) if isinstance(config, dict) else config
        return f"{name} with {self.spec.checkpoint or 'random weights'}"

    def set_mode(self) -> None:
        """Eval mode; with ``mode: mmrazor`` only batch norm, the rest (drop path ...) trains on as there."""
        self.model.train(self.spec.mode == "mmrazor")
        if self.spec.mode == "mmrazor":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def to(self, device: torch.device) -> None:
        """Move by hand: the trainer does not see the teacher."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)

    @torch.no_grad()
    def features(self, images: Tensor, source: Normalisation, valid: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Tapped maps of a batch that was normalised for another detector.

        Args:
            images: ``(N, 3, H, W)`` normalised by ``source``.
            source: statistics of ``images``.
            valid: (height, width) of each image without padding.
        """
        self.to(images.device)
        self.set_mode()
        with torch.autocast(images.device.type, enabled=False):
            batch = convert_batch(images.float(), source, self.normalisation, valid)
        dtype = _DTYPES.get(self.spec.precision)
        context = torch.autocast(images.device.type, dtype) if dtype else nullcontext()
        off = torch.autocast(images.device.type, enabled=False) if dtype is None else nullcontext()
        with off, context:
            self._extract(batch)
        return self.tap.take()

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> list[Any]:
        """Data samples with predicted boxes; the batch must not be used again (mmdet changes it in place)."""
        self.model.eval()
        self.model.data_preprocessor.to(next(self.model.parameters()).device)
        samples: list[Any] = self.model.val_step(batch)
        self.tap.take()
        self.set_mode()
        return samples

    def identity(self) -> dict[str, str]:
        """What a feature cache must agree on."""
        weights = "random"
        if self.spec.checkpoint is not None:
            weights = hashlib.sha256(Path(self.spec.checkpoint).read_bytes()).hexdigest()
        text = repr(self.spec.config if isinstance(self.spec.config, dict) else Path(self.spec.config).stem)
        return {"teacher": weights, "config": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _holds_teacher(path: str) -> bool:
    """Whether a file is an mmrazor checkpoint, whose teacher half is wanted."""
    return read_detector_state(path).origin == "mmrazor"
