"""Images and video to small uint8 frames, as few operations as possible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """An image file as ``(3, H, W)`` uint8 RGB, resized by area; grey ones become three equal channels.

    OpenCV decodes a JPEG at half or quarter size where the wanted size allows (3 to 4 times faster than a full decode);
    without OpenCV, Pillow's draft mode does.

    Args:
        path: of a JPEG or PNG.
        size: (H, W); None keeps the file's.

    Raises:
        ValueError: if the file cannot be decoded whole; FileNotFoundError if it is absent.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no image {path}")
    check_whole(path)
    data = path.read_bytes()
    try:
        image = _decode_cv2(data, size)
    except ImportError:
        image = _decode_pillow(path, size)
    if image is None:
        raise ValueError(f"{path} cannot be decoded as an image")
    return image


def check_whole(path: Path) -> None:
    """Raise ValueError for a JPEG or PNG that ends early, reading its two ends only."""
    with path.open("rb") as handle:
        head = handle.read(8)
        handle.seek(max(0, path.stat().st_size - 64))
        tail = handle.read()
    for kind, start, end in (("JPEG", b"\xff\xd8", b"\xff\xd9"), ("PNG", b"\x89PNG", b"IEND")):
        if head.startswith(start) and end not in tail:
            raise ValueError(f"{path} is a truncated {kind}: copy it again")


def _decode_cv2(data: bytes, size: tuple[int, int] | None) -> np.ndarray | None:
    """RGB ``(3, H, W)`` by OpenCV, or None if it cannot."""
    import cv2

    flag = cv2.IMREAD_COLOR
    if size is not None and data[:2] == b"\xff\xd8":
        height, width = jpeg_size(data)
        for factor, reduced in ((4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2)):
            if height >= size[0] * factor and width >= size[1] * factor:
                flag = reduced
                break
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None:
        return None
    if size is not None and image.shape[:2] != size:
        near = image.shape[0] < 2 * size[0] and image.shape[1] < 2 * size[1]
        # under a factor of 2 four neighbours cover the pixel, and linear is six times faster than area
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR if near else cv2.INTER_AREA)
    blue, green, red = cv2.split(image)
    return np.stack([red, green, blue])


def _decode_pillow(path: Path, size: tuple[int, int] | None) -> np.ndarray | None:
    """RGB ``(3, H, W)`` by Pillow, or None if it cannot."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if size is not None:
                image.draft("RGB", (size[1], size[0]))
            picture = image.convert("RGB")
            if size is not None and picture.size != (size[1], size[0]):
                picture = picture.resize((size[1], size[0]), Image.Resampling.BOX)
            return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
    except (OSError, SyntaxError):
        return None


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the frame header of a JPEG; (0, 0) if there is none."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + length
    return 0, 0


def read_video(path: Path, indices: list[int], size: tuple[int, int] | None = None) -> np.ndarray:
    """Frames of a video file by number, ``(N, 3, H, W)`` uint8 RGB, decoded in one pass by PyAV.

    Raises:
        ValueError: if the video ends before the last index or cannot be decoded.
        ImportError: without PyAV.
    """
    wanted = dict.fromkeys(indices)
    frames: dict[int, np.ndarray] = {}
    for number, frame in _frames(path):
        if number in wanted:
            frames[number] = _to_array(frame, size)
        if len(frames) == len(wanted):
            break
    missing = [i for i in indices if i not in frames]
    if missing:
        raise ValueError(f"{path} ends before frame {missing[0]}: is the file complete?")
    return np.stack([frames[i] for i in indices])


def count_frames(path: Path) -> int:
    """Number of frames: from the container, else by demuxing without decoding."""
    with _open(path) as container:
        stream = container.streams.video[0]
        if stream.frames:
            return int(stream.frames)
        return sum(1 for packet in container.demux(stream) if packet.size)


def video_size(path: Path) -> tuple[int, int]:
    """(height, width) of a video file."""
    with _open(path) as container:
        stream = container.streams.video[0]
        return int(stream.height), int(stream.width)


def _frames(path: Path) -> Iterator[tuple[int, Any]]:
    import av

    with _open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            yield from enumerate(container.decode(video=0))
        except av.error.FFmpegError as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error


def _open(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("video files need the video extra: pip install 'septet[video]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"no video {path}")
    try:
        return av.open(str(path))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is not a video PyAV can read: {error}") from error


def _to_array(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    """One decoded frame as ``(3, H, W)``, scaled by area inside FFmpeg."""
    if size is not None and (frame.height, frame.width) != size:
        frame = frame.reformat(width=size[1], height=size[0], format="rgb24", interpolation="AREA")
    array: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def write_video(
    path: Path, frames: np.ndarray, fps: int, codec: str = "libx265", container_format: str | None = None
) -> None:
    """Write ``(T, 3, H, W)`` uint8 (even H and W); ``video.hevc`` is a raw stream.

    Raises:
        ValueError: libx265 below 64x64 pixels, where the encoder corrupts memory.
    """
    import av

    if codec == "libx265" and min(frames.shape[2:]) < 64:
        raise ValueError(f"libx265 needs at least 64x64 pixels, got {frames.shape[2]}x{frames.shape[3]}")

    with av.open(str(path), "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast"} | (
            {"x265-params": "log-level=none"} if codec == "libx265" else {}
        )
        for frame in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)), format="rgb24")
            for packet in stream.encode(image):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
