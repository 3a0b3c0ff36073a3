"""Tiny random nets, in one place for all tests of the room."""

from __future__ import annotations

from typing import Any

TINY = {"width": 16, "embedding": 32}
"""Arguments of the next-frame UNet."""


def unet(width: int) -> dict[str, Any]:
    """Configuration of diffusers' spatio-temporal UNet with two levels of ``width`` and twice as many channels."""
    return {
        "in_channels": 8, "out_channels": 4, "block_out_channels": [width, 2 * width], "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24, "layers_per_block": 1, "cross_attention_dim": 16,
        "num_attention_heads": [2, 2],
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    }  # fmt: skip


def vae(width: int) -> dict[str, Any]:
    """Configuration of diffusers' temporal VAE with two levels of ``width`` channels."""
    return {
        "block_out_channels": [width] * 2,
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
    }
