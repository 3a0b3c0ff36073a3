"""Readers of recorded driving video; each pairs frame n with the motion leaving it."""

from septet.datamodules.video.readers.comma2k19 import Comma2k19Reader
from septet.datamodules.video.readers.drivingdojo import DrivingDojoReader
from septet.datamodules.video.readers.folder import FolderReader
from septet.datamodules.video.readers.kitti import KittiReader

__all__ = ["Comma2k19Reader", "DrivingDojoReader", "FolderReader", "KittiReader"]
