"""The own nets: a next-frame UNet for a CPU and a spatio-temporal transformer for one GPU.

Both map scaled noisy latents to the network output F of ``D = c_skip x + c_out F`` for every frame of a clip, given
the known frames, the actions and what was dropped for guidance.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.lightning_modules.drivingdojo.actions import ActionEncoder, frame_features

Form = Literal["adaln", "cross_tokens"]


def fourier(values: Tensor, bands: int, top: float) -> Tensor:
    """Sines and cosines of ``values`` at ``bands`` frequencies from 1 to ``top``: (.., D) -> (.., 2 D bands)."""
    frequency = torch.logspace(0, math.log10(top), bands, device=values.device, dtype=values.dtype)
    angle = values.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


class FilmBlock(nn.Module):
    """Residual block of two 3x3 convolutions, modulated by an embedding (FiLM)."""

    def __init__(self, n_in: int, n_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, n_in), nn.GroupNorm(8, n_out)
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(N, C, h, w)`` and ``(N, E)`` to ``(N, C', h, w)``."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        h = self.norm2(h) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv2(F.silu(h))
        return out


class NextFrameUNet(nn.Module):
    """Denoises frame j from frame j-1 and the action between them, pair by pair (size ``tiny``).

    Frame j depends on actions 0..j-1 only, through frame j-1.

    Args:
        channels: of a latent.
        width: of the first level; the others have 2 and 2.5 times as many.
        embedding: width of the FiLM embedding.

    Raises:
        ValueError: a width that the group norms cannot divide.
    """

    reach = 1
    per_frame_sigma = True

    def __init__(self, channels: int = 12, width: int = 48, embedding: int = 128) -> None:
        super().__init__()
        if width < 16 or width % 16:
            raise ValueError(f"width={width} must be a multiple of 16")
        w, deep = width, width * 5 // 2
        self.embed = nn.Sequential(
            nn.Linear(8 + 3 + 18 + 2, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(2 * channels + 2, w, 3, padding=1)
        self.down = nn.ModuleList([FilmBlock(w, w, embedding), FilmBlock(w, 2 * w, embedding)])
        self.middle = nn.ModuleList([FilmBlock(2 * w, deep, embedding), FilmBlock(deep, deep, embedding)])
        self.up = nn.ModuleList([FilmBlock(2 * w + deep, 2 * w, embedding), FilmBlock(3 * w, w, embedding)])
        self.norm, self.out = nn.GroupNorm(8, w), nn.Conv2d(w, channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor, clean: Tensor, known: Tensor, actions: Tensor, yaw: Tensor | None,
        drop_image: Tensor, drop_action: Tensor,
    ) -> Tensor:  # fmt: skip
        """F at the unknown frames, 0 elsewhere.

        Args:
            x: noisy latents times c_in ``(B, T, C, h, w)``.
            c_noise: ``(B, T)``.
            clean: latents whose frame j-1 conditions frame j ``(B, T, C, h, w)``.
            known: frames that are given ``(B, T)`` bool.
            actions: ``(B, T-1, 2)`` metres.
            yaw: ``(B, T-1)`` radians, nan or None for the chord rule.
            drop_image: items without their image ``(B,)`` bool.
            drop_action: items without their actions ``(B,)`` bool.
        """
        frames = known.shape[1]
        before = torch.cat([torch.zeros_like(clean[:, :1]), clean[:, :-1]], 1)
        before = before.masked_fill(drop_image[:, None, None, None, None], 0)
        steps = frame_features(actions, yaw)[..., :3].masked_fill(drop_action[:, None, None], 0)
        flags = torch.stack([drop_image, drop_action], -1).to(x.dtype)[:, None].expand(-1, frames, -1)
        asked = ~known
        embedding = torch.cat([steps, fourier(steps, 3, 4.0), flags], -1)[asked].to(x.dtype)
        embedding = torch.cat([fourier(c_noise[asked].unsqueeze(-1), 4, 8.0), embedding], -1)
        out = torch.zeros_like(x)
        out[asked] = self._pairs(x[asked], before[asked], self.embed(embedding)).to(x.dtype)
        return out

    def _pairs(self, x: Tensor, before: Tensor, e: Tensor) -> Tensor:
        """F of single frames ``(N, C, h, w)``."""
        height, width = x.shape[-2:]
        v, u = torch.meshgrid(
            torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype),
            torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype),
            indexing="ij",
        )
        grid = torch.stack([u, v]).expand(len(x), -1, -1, -1)
        h1 = self.down[0](self.stem(torch.cat([x, before, grid], 1)), e)
        h2 = self.down[1](F.avg_pool2d(h1, 2), e)
        h3 = F.avg_pool2d(h2, 2)
        for block in self.middle:
            h3 = block(h3, e)
        h = self.up[0](torch.cat([_double(h3), h2], 1), e)
        h = self.up[1](torch.cat([_double(h), h1], 1), e)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Attention(nn.Module):
    """Multi-head self-attention over ``(N, L, D)``; extra tokens may be read, not written."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Attend within x, and to ``extra`` tokens ``(N, E, D)`` where given."""
        length = x.shape[1]
        q, k, v = (
            self.qkv(x if extra is None else torch.cat([x, extra], 1)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        )
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q[:, :length], k, v)))
        result: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return result


class VideoBlock(nn.Module):
    """Spatial attention, temporal attention and MLP, each under AdaLN with a zero-initialised gate (DiT)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.space, self.time = Attention(dim, heads), Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(dim, 9 * dim))
        last = self.ada[1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, embedding: Tensor, extra: Tensor | None) -> Tensor:
        """Tokens ``(B, T, L, D)`` under a per-frame embedding ``(B, T, D)``."""
        parts = self.ada(embedding).unsqueeze(2).chunk(9, -1)
        h = (self.norm(x) * (1 + parts[0]) + parts[1]).flatten(0, 1)
        x = x + parts[2] * self.space(h, extra).view_as(x)
        h = (self.norm(x) * (1 + parts[3]) + parts[4]).transpose(1, 2).flatten(0, 1)
        mixed = self.time(h).view(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
        x = x + parts[5] * mixed
        out: Tensor = x + parts[8] * self.mlp(self.norm(x) * (1 + parts[6]) + parts[7])
        return out


class SpatioTemporalDiT(nn.Module):
    """Whole-clip transformer on latents (size ``small``): known frames enter clean, the rest noisy.

    Args:
        channels: of a latent.
        grid: (h, w) of a latent.
        frames: longest clip.
        dim: width; 384 with depth 8 has 30 M parameters.
        depth: blocks.
        heads: of the attentions.
        patch: latent pixels per token and axis.
        form: actions in the AdaLN embedding, or as a token that spatial attention reads.
    """

    reach = 3
    per_frame_sigma = False

    def __init__(
        self, channels: int, grid: tuple[int, int], frames: int, dim: int = 384, depth: int = 8, heads: int = 6,
        patch: int = 2, form: Form = "adaln",
    ) -> None:  # fmt: skip
        super().__init__()
        if grid[0] % patch or grid[1] % patch:
            raise ValueError(f"latents of {grid[0]}x{grid[1]} do not divide by patch={patch}")
        self.patch, self.form, self.checkpointing = patch, form, False
        self.stem = nn.Conv2d(channels + 1, dim, patch, patch)
        self.place = nn.Parameter(torch.randn(1, 1, grid[0] * grid[1] // patch**2, dim) * 0.02)
        self.moment = nn.Parameter(torch.randn(1, frames, 1, dim) * 0.02)
        self.noise = nn.Sequential(nn.Linear(16, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.pose = nn.Sequential(nn.Linear(7 + 2, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.token = ActionEncoder(dim) if form == "cross_tokens" else None
        self.blocks = nn.ModuleList([VideoBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, channels * patch**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor, clean: Tensor, known: Tensor, actions: Tensor, yaw: Tensor | None,
        drop_image: Tensor, drop_action: Tensor,
    ) -> Tensor:  # fmt: skip
        """F of all frames; the arguments are those of :meth:`NextFrameUNet.forward`."""
        batch, frames, _, height, width = x.shape
        given = clean.masked_fill(drop_image[:, None, None, None, None], 0)
        mask = known[:, :, None, None, None]
        x = torch.cat([torch.where(mask, given, x), mask.expand(-1, -1, 1, height, width).to(x.dtype)], 2)
        level = torch.where(known, torch.full_like(c_noise, -2.0), c_noise)
        features = frame_features(actions, yaw).masked_fill(drop_action[:, None, None], 0)
        flags = torch.stack([drop_image, drop_action], -1)[:, None].expand(-1, frames, -1)
        if self.form == "cross_tokens":
            features = torch.cat([torch.zeros_like(features[..., :3]), features[..., 3:]], -1)
        embedding = self.noise(fourier(level.unsqueeze(-1), 8, 16.0).to(x.dtype))
        embedding = embedding + self.pose(torch.cat([features, flags.to(features.dtype)], -1).to(x.dtype))
        h = self.stem(x.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (batch, frames))
        h = h + self.place + self.moment[:, :frames]
        extra = self._action_tokens(actions, drop_action)
        for block in self.blocks:
            h = self._run(block, h, embedding, extra)
        return self._unpatch(self.out(self.norm(h)), height, width)

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor, extra: Tensor | None) -> Tensor:
        if self.checkpointing and self.training:
            from torch.utils.checkpoint import checkpoint

            out: Tensor = checkpoint(block, h, embedding, extra, use_reentrant=False)
            return out
        result: Tensor = block(h, embedding, extra)
        return result

    def _action_tokens(self, actions: Tensor, drop_action: Tensor) -> Tensor | None:
        """One token per frame of the step that led to it, ``(B*T, 1, D)``."""
        if self.token is None:
            return None
        arriving = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)
        token = self.token(arriving).masked_fill(drop_action[:, None, None], 0)
        result: Tensor = token.flatten(0, 1).unsqueeze(1)
        return result

    def _unpatch(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Tokens ``(B, T, L, C p p)`` to latents ``(B, T, C, h, w)``."""
        p = self.patch
        h = tokens.unflatten(2, (height // p, width // p)).unflatten(-1, (-1, p, p))
        result: Tensor = h.permute(0, 1, 4, 2, 5, 3, 6).reshape(*tokens.shape[:2], -1, height, width)
        return result
