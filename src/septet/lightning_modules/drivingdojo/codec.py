"""Between frames and latents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_unit(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 to [-1, 1]."""
    return frames.to(dtype) / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to uint8, clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class PixelCodec(nn.Module):
    """Lossless: pixel-unshuffle by ``factor``; latents are pixels in [-1, 1].

    Args:
        factor: pixels per latent pixel and axis.
        frame_size: (H, W).

    Raises:
        ValueError: if the frame does not divide.
    """

    def __init__(self, factor: int, frame_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = frame_size
        if height % factor or width % factor:
            raise ValueError(f"frame_size={frame_size} does not divide by {factor}")
        self.factor = factor
        self.shape = (3 * factor**2, height // factor, width // factor)

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(B, T, 3, H, W)`` to latents ``(B, T, C, h, w)``."""
        return F.pixel_unshuffle(to_unit(frames), self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, T, C, h, w)`` to uint8 ``(B, T, 3, H, W)``."""
        return to_bytes(F.pixel_shuffle(latents.float(), self.factor))


class TinyAutoencoderCodec(nn.Module):
    """diffusers' AutoencoderTiny, frozen, weights by path.

    Args:
        path: folder of the model, as ``save_pretrained`` writes it.
        frame_size: (H, W), divisible by 8.
    """

    def __init__(self, path: str, frame_size: tuple[int, int]) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderTiny
        except ImportError as error:
            raise ImportError("drivingdojo needs the video extra: pip install 'septet[video]'") from error
        self.net: Any = AutoencoderTiny.from_pretrained(path).requires_grad_(False).eval()
        scale = 2 ** (len(self.net.config.encoder_block_out_channels) - 1)
        if frame_size[0] % scale or frame_size[1] % scale:
            raise ValueError(f"frame_size={frame_size} does not divide by {scale}")
        self.shape = (int(self.net.config.latent_channels), frame_size[0] // scale, frame_size[1] // scale)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(B, T, 3, H, W)`` to latents ``(B, T, C, h, w)``."""
        latents: Tensor = self.net.encode(to_unit(frames).flatten(0, 1)).latents
        result: Tensor = latents.unflatten(0, frames.shape[:2])
        return result

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, T, C, h, w)`` to uint8 ``(B, T, 3, H, W)``."""
        images: Tensor = self.net.decode(latents.flatten(0, 1)).sample
        result: Tensor = to_bytes(images).unflatten(0, latents.shape[:2])
        return result
