"""The compiled operators that mmdet detectors need, on torchvision: nobody has to build mmcv.

``install()`` offers them to mmcv as ``mmcv._ext`` when no compiled extension can be imported.
"""

from septet.kernels.detection.provider import PROVIDED, import_mmdet, install, provided

__all__ = ["PROVIDED", "import_mmdet", "install", "provided"]
