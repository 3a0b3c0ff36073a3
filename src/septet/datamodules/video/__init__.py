"""Driving video with ego motion: a simulator, readers of recorded data, and batches of clips."""

from septet.datamodules.video.clips import (
    Camera,
    ClipSample,
    check_actions,
    parse_action,
    split_by_vehicle,
    window_start,
)
from septet.datamodules.video.datamodule import VideoClips
from septet.datamodules.video.readers import Comma2k19Reader, DrivingDojoReader, FolderReader, KittiReader
from septet.datamodules.video.simulator import StreetSimulator

__all__ = [
    "Camera",
    "ClipSample",
    "Comma2k19Reader",
    "DrivingDojoReader",
    "FolderReader",
    "KittiReader",
    "StreetSimulator",
    "VideoClips",
    "check_actions",
    "parse_action",
    "split_by_vehicle",
    "window_start",
]
