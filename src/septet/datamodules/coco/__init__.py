"""COCO-format detection data: mmdet data sets under Lightning, checks, and a seeded generator."""

from septet.datamodules.coco.datamodule import COCODetection
from septet.datamodules.coco.synthetic import generate_shapes
from septet.datamodules.coco.validation import CocoProblem, validate_coco

__all__ = ["COCODetection", "CocoProblem", "generate_shapes", "validate_coco"]
