"""``mmcv._ext`` without a compiler (the operators themselves: ``septet.kernels.detection``)."""

from septet.kernels.detection import PROVIDED, import_mmdet, install, provided

__all__ = ["PROVIDED", "import_mmdet", "install", "provided"]
