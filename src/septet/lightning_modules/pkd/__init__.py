"""PKD: detector distillation by Pearson correlation (NeurIPS 2022, arXiv 2207.02039)."""

from septet.lightning_modules.pkd.module import DetectionDistiller
from septet.lightning_modules.pkd.preflight import PreflightReport, preflight
from septet.lightning_modules.pkd.specs import LossSpec, TeacherSpec

__all__ = ["DetectionDistiller", "LossSpec", "PreflightReport", "TeacherSpec", "preflight"]
