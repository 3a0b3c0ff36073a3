"""The LightningModule: a student detector trained with its own losses plus distillation terms."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from septet.lightning_modules.pkd.cache import prepare_folder
from septet.lightning_modules.pkd.checkpoints import LoadReport, load_strict, read_detector_state
from septet.lightning_modules.pkd.curves import Curves, gradient_share
from septet.lightning_modules.pkd.detectors import Tap, build_detector, model_config, num_classes, probe, to_coco
from septet.lightning_modules.pkd.export import CHOICES, KEY, describe_student, export_run
from septet.lightning_modules.pkd.metrics import CocoBoxAP
from septet.lightning_modules.pkd.optim import build_optimizer, build_schedule, optimiser_steps
from septet.lightning_modules.pkd.pictures import PictureBook
from septet.lightning_modules.pkd.predictions import PredictionWriter
from septet.lightning_modules.pkd.preflight import PreflightReport, preflight
from septet.lightning_modules.pkd.preprocess import Normalisation
from septet.lightning_modules.pkd.specs import LossSpec, TeacherSpec, loss_specs, plain, teacher_specs
from septet.lightning_modules.pkd.supply import FeatureSupply
from septet.lightning_modules.pkd.teachers import Teacher
from septet.lightning_modules.pkd.terms import DistillTerm
from septet.lightning_modules.task import Task

_log = logging.getLogger(__name__)
_SGD: Mapping[str, Any] = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


class DetectionDistiller(Task):
    """Distil any mmdet detector into any other (PKD, NeurIPS 2022, arXiv 2207.02039).

    Args:
        student: mmdet name, file or dictionary of the student.
        teachers: frozen detectors, each a :class:`TeacherSpec` or a mapping of its attributes.
        losses: distillation terms, each a :class:`LossSpec` or a mapping; none trains the plain student.
        preflight: prove before training that both networks really loaded.
        min_teacher_ap: lowest acceptable AP of each teacher on the preflight images.
        cache: folder for the teachers' maps; only with fixed-size pipelines.
        cache_limit_gb: refuse larger caches.
        pictures: validation images drawn each epoch (ground truth, teacher, student).
        optimizer: class name of ``torch.optim`` as ``type``, and its arguments.
        paramwise: mmengine's ``paramwise_cfg``.
        schedule: ``type: multistep``, ``onecycle`` or ``constant`` and its options.
        auto_scale_lr: batch size the learning rate was chosen for; rates scale with the real one. Null: no scaling.
        student_checkpoint: initial weights of the student.
        pretrained: let the student's configuration fetch its ImageNet backbone.
        export: which student a fit leaves in ``export/``: ``best`` (by validation AP), ``last`` or ``none``.
        baseline: run directory (or ``metrics.csv``) whose AP is drawn beside this run's, e.g. without distillation.
        preflight_images: validation images on which the preflight measures the teachers' AP.

    Raises:
        ValueError: losses that name no teacher, a teacher without weights under preflight, an unknown ``export``,
            an unknown key or a value of the wrong kind in a teacher or loss.
    """

    monitor: ClassVar[str] = "val/ap"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        student: str | dict[str, Any],
        teachers: Sequence[dict[str, Any] | TeacherSpec] = (),  # a list given later replaces the whole list
        losses: Sequence[dict[str, Any] | LossSpec] = (),
        *,
        preflight: bool = True,
        min_teacher_ap: float | None = None,
        cache: str | None = None,
        cache_limit_gb: float = 50.0,
        pictures: int = 8,
        optimizer: dict[str, Any] | None = None,
        paramwise: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        auto_scale_lr: int | None = None,
        student_checkpoint: str | None = None,
        pretrained: bool = False,
        export: str = "best",
        baseline: str | None = None,
        preflight_images: int = 16,
    ) -> None:
        super().__init__()
        self.teacher_specs = teacher_specs(teachers)
        self.loss_specs = loss_specs(losses, len(self.teacher_specs))
        self.save_hyperparameters(ignore=["teachers", "losses"])
        self.save_hyperparameters({"teachers": plain(teachers), "losses": plain(losses)})
        if preflight and any(spec.checkpoint is None for spec in self.teacher_specs):
            raise ValueError("a teacher has no checkpoint: random weights teach nothing; give one or preflight: false")
        self.student_config, self.student_checkpoint, self.pretrained = student, student_checkpoint, pretrained
        if export not in CHOICES:
            raise ValueError(f"unknown export {export!r}; choose from {', '.join(CHOICES)}")
        self.run_preflight, self.min_teacher_ap, self.preflight_images = preflight, min_teacher_ap, preflight_images
        self.export, self.curves = export, Curves(baseline)
        self.cache, self.cache_limit_gb, self.pictures = cache, cache_limit_gb, pictures
        self.optimizer_options = dict(optimizer or _SGD)
        self.paramwise, self.schedule_options, self.auto_scale_lr = paramwise, dict(schedule or {}), auto_scale_lr
        self.student: Any = None
        self.student_model: dict[str, Any] = {}
        self.student_report: LoadReport | None = None
        self.losses = nn.ModuleList()
        self.teachers: list[Teacher] = []
        self._taps: dict[str, Tap] = {}
        self._supply: FeatureSupply | None = None
        self._book: PictureBook | None = None
        self._writer: PredictionWriter | None = None
        self.ap: CocoBoxAP | None = None

    # -- building ---------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build student, teachers and terms once."""
        if self.student is not None:
            return
        self.student_model = model_config(self.student_config)  # read once: the file may change while training
        fetch = self.pretrained and (self._trainer is None or self.trainer.state.fn == "fit")  # others load a file
        self.student = build_detector(self.student_model, pretrained=fetch, initialise=True, role="student")
        if self.student_checkpoint is not None:
            self.student_report = load_strict(self.student, read_detector_state(self.student_checkpoint))
            _log.info("student weights from %s: %s", self.student_checkpoint, self.student_report)
        names = sorted({spec.student_tap for spec in self.loss_specs})
        geometry = {name: probe(self.student, name) for name in names}
        self._taps = {name: Tap(self.student, name) for name in names}
        self.teachers = [Teacher(spec, self._teacher_tap(i)) for i, spec in enumerate(self.teacher_specs)]
        for number, teacher in enumerate(self.teachers):
            _log.info("teacher %d: %s", number, teacher.source())
        self.losses.extend(
            DistillTerm(spec, geometry[spec.student_tap], self.teachers[spec.teacher].geometry)
            for spec in self.loss_specs
        )

    def _teacher_tap(self, number: int) -> str:
        taps = {spec.teacher_tap for spec in self.loss_specs if spec.teacher == number} or {"neck"}
        if len(taps) > 1:
            raise ValueError(f"teacher {number} is tapped at {sorted(taps)}; list it twice to tap two modules")
        return taps.pop()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Groups as mmengine's, and a schedule by optimiser steps."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = datamodule.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        scale = batch / self.auto_scale_lr if self.auto_scale_lr else 1.0
        optimizer = build_optimizer(
            self.student, self.losses.parameters(), self.optimizer_options, self.paramwise, scale
        )
        total, per_epoch = optimiser_steps(self.trainer, len(datamodule.train_dataloader()))
        scheduler = build_schedule(optimizer, self.schedule_options, total, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # -- training ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Prepare the metric for the stage's ground truth."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        split = "test" if stage == "test" else "val"
        if stage == "fit":
            self.curves.open()
        if stage != "predict":
            self.ap = CocoBoxAP(data.ground_truth(split))
        self._book = PictureBook(self, data, self.pictures) if stage in ("fit", "validate", "test") else None

    def check_classes(self, data: Any) -> None:
        """Refuse data with another number of classes than the student's head (ValueError)."""
        heads = num_classes(self.student)
        if heads is not None and data.classes and heads != len(data.classes):
            raise ValueError(
                f"category mismatch: the student's head has {heads} classes, the data {len(data.classes)} "
                f"({', '.join(data.classes[:5])}); set num_classes of the head"
            )

    def verify(self, datamodule: Any) -> PreflightReport:
        """The preflight without a trainer, for ``septet data verify coco -c CONFIG``."""
        datamodule.setup("fit")
        if self.teacher_specs and self.cache is not None:
            prepare_folder(Path(self.cache))
        return preflight(self, datamodule, self.preflight_images)

    def _place(self) -> None:
        """Check classes, and move preprocessors: they keep a device of their own, which module moves do not set."""
        self.check_classes(self.trainer.datamodule)  # type: ignore[attr-defined]
        self.student.data_preprocessor.to(self.device)
        for teacher in self.teachers:
            teacher.to(self.device)

    def on_fit_start(self) -> None:
        """Preflight, then the source of teacher maps."""
        self._place()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.teachers and self.cache is not None:
            prepare_folder(Path(self.cache))
        if self.run_preflight and self.teachers and not getattr(self.trainer, "fast_dev_run", 0):
            report = preflight(self, data, self.preflight_images)
            self.save_media("preflight.json", report.to_json())
            self.print(str(report))
            report.refuse()
        else:
            for number, teacher in enumerate(self.teachers):
                self.print(f"teacher {number}: {teacher.source()}")
        if self.teachers and self.cache is not None:
            self._supply = FeatureSupply.with_cache(self.teachers, data, Path(self.cache), self.cache_limit_gb)
        else:
            self._supply = FeatureSupply(self.teachers)

    def student_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """Detection loss, its parts, and the preprocessed batch; taps hold the maps afterwards."""
        data = self.student.data_preprocessor(batch, True)
        total, parts = self.student.parse_losses(self.student(**data, mode="loss"))
        return total, parts, data

    def active(self, epoch: int) -> list[tuple[int, float]]:
        """Numbers and factors of the terms that count in an epoch."""
        factors = [(i, spec.factor(epoch)) for i, spec in enumerate(self.loss_specs)]
        return [(i, factor) for i, factor in factors if factor > 0]

    def distill_losses(self, data: Mapping[str, Any], active: Sequence[tuple[int, float]]) -> dict[int, Tensor]:
        """Per-level losses of the active terms on a preprocessed batch; no teacher runs when none is active."""
        student = {name: tap.take() for name, tap in self._taps.items()}
        if not active:
            return {}
        samples = data["data_samples"]
        valid = [tuple(s.img_shape[:2]) for s in samples]
        boxes = [s.gt_instances.bboxes for s in samples]
        frames = [tuple(data["inputs"].shape[-2:])] * len(samples)
        source = Normalisation.of(self.student.data_preprocessor)
        supply = self._supply or FeatureSupply(self.teachers)
        needed = sorted({self.loss_specs[i].teacher for i, _ in active})
        maps = {k: supply.features(k, data["inputs"], source, valid, samples) for k in needed}
        out = {}
        for i, factor in active:
            spec = self.loss_specs[i]
            out[i] = factor * self.losses[i](student[spec.student_tap], maps[spec.teacher], boxes, frames)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Detection loss plus alpha times the distillation loss of each level."""
        size = len(batch["inputs"])
        total, parts, data = self.student_loss(batch)
        self.log("train/loss_det", total.detach(), batch_size=size)
        for name, value in parts.items():
            if name != "loss":
                self.log(f"train/{name}", value.detach(), batch_size=size)
        maps = {name: list(tap.maps) for name, tap in self._taps.items()} if batch_idx == 0 else {}
        detection = total
        for i, levels in self.distill_losses(data, self.active(self.current_epoch)).items():
            name = f"kd{i}_{self.loss_specs[i].method}"
            self.log(f"train/{name}", levels.detach().sum(), batch_size=size)
            for level, value in enumerate(levels.detach()):
                self.log(f"train/{name}_level{level}", value, batch_size=size)
            if batch_idx == 0:
                self._note(i, name, levels, detection, maps[self.loss_specs[i].student_tap])
            total = total + levels.sum()
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        return total

    def _note(self, i: int, name: str, levels: Tensor, detection: Tensor, maps: list[Tensor]) -> None:
        """Gradient share and figures of a term on the first batch of an epoch.

        Not by ``self.log``, which repeats a value until the epoch's end, but not after a resume in its middle.
        """
        spec, share = self.loss_specs[i], gradient_share(levels.sum(), detection, maps)
        for logger in self.loggers if share is not None and self.trainer.is_global_zero else []:
            logger.log_metrics({f"train/{name}_gradient_share": float(share or 0)}, step=self.global_step)
        weight = spec.weight * spec.factor(self.current_epoch) if spec.method == "pkd" else None
        figures = [float(x) for x in levels.detach()]
        self.curves.note(name, self.current_epoch + 1, figures, weight, None if share is None else float(share))

    # -- evaluation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, batch: Mapping[str, Any]) -> list[Any]:
        """The student's predictions as mmdet data samples, boxes in pixels of the original images."""
        data = self.student.data_preprocessor(batch, False)
        samples: list[Any] = self.student(**data, mode="predict")
        for tap in self._taps.values():
            tap.take()
        return samples

    def on_validation_start(self) -> None:
        """Move the preprocessors (validation may run without training)."""
        self._place()

    def on_test_start(self) -> None:
        """As for validation; says which images are scored."""
        self._place()
        self.print(f"test images: {self.trainer.datamodule.describe('test')}")  # type: ignore[attr-defined]

    def _evaluate(self, batch: Any) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        samples = self.detect(batch)
        rows = to_coco(samples, data.category_ids)
        assert self.ap is not None
        self.ap.update([int(s.img_id) for s in samples], rows)
        if self._book is not None:
            self._book.add(rows)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collect detections."""
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Collect detections."""
        self._evaluate(batch)

    def _finish(self, stage: str) -> None:
        assert self.ap is not None
        stats = self.ap.compute()
        for name, value in stats.items():
            if value >= 0:
                shown = name.lower() if name[-1] not in "sml" else f"{name[:2].lower()}_{name[-1]}"
                self.log(f"{stage}/{shown}", value.float(), prog_bar=name == "AP", rank_zero_only=False)
        self.ap.reset()
        if self._book is not None:
            self._book.publish(stage)
        if stage == "val" and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.curves.add(self.current_epoch + 1, float(stats["AP"]))
            self._draw_curves()

    def _draw_curves(self) -> None:
        """Pictures over the epochs, from the second one on."""
        if not self.pictures or not self.trainer.is_global_zero or len(self.curves.ap) < 2:
            return
        self.save_picture("ap_by_epoch", self.curves.ap_figure(self._label()))
        if self.curves.terms:
            self.save_picture("distillation", self.curves.terms_figure())

    def _label(self) -> str:
        return "+".join(f"{spec.method}:{spec.weight:g}" for spec in self.loss_specs) or "none"

    def on_validation_epoch_end(self) -> None:
        """The COCO numbers of the epoch."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """The COCO numbers of the test images."""
        self._finish("test")

    # -- prediction and export --------------------------------------------------------------------------------------

    def on_predict_start(self) -> None:
        """Open the writer of ``predictions.json`` and pictures."""
        self._place()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._writer = PredictionWriter(self.run_dir, data.classes, data.category_ids)

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Detections as flat rows."""
        assert self._writer is not None
        return self._writer.add(self.detect(batch))

    def on_predict_end(self) -> None:
        """Write ``predictions.json``; runs after the command line's own writer of ``predictions.csv``."""
        if self._writer is None:
            return
        rank = self.global_rank
        self._writer.close("predictions.csv" if rank == 0 else f"predictions-{rank}.csv")
        if not self._writer.detections:
            self.print(f"0 boxes in {len(self._writer.images)} images: none scores above the student's score_thr")

    def on_fit_end(self) -> None:
        """Leave the student as a plain mmdet checkpoint with a runnable configuration."""
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", 0):
            path = export_run(self, self.run_dir / "export")
            if path is not None:
                self.print(f"exported for mmdet: {path}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the student, so that any checkpoint can be exported, and keep the curves."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] = describe_student(self.student_model, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["pkd_curves"] = self.curves.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the curves up again."""
        super().on_load_checkpoint(checkpoint)
        self.curves.restore(checkpoint.get("pkd_curves", {}))

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol blocks of the run record."""
        model: dict[str, Any] = {"name": "pkd", "variant": self._label()}
        if self.student is not None:
            model["params"] = sum(p.numel() for p in self.student.parameters())
        return {"model": model, "protocol": {"pairs": [str(s.pairs) for s in self.loss_specs]}}
