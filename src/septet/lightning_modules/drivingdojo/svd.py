# mypy: disable-error-code="attr-defined, union-attr, operator, arg-type"
"""Stable Video Diffusion as a world model: a per-frame context for diffusers' UNet, its temporal VAE, LoRA.

The only module that imports diffusers' video classes. Weights come by path; none ship.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
except ImportError as error:
    raise ImportError("drivingdojo's svd needs the video extra: pip install 'septet[video]'") from error

from septet.lightning_modules.drivingdojo.actions import ActionEncoder
from septet.lightning_modules.drivingdojo.codec import to_bytes, to_unit

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel
    from septet.lightning_modules.drivingdojo.settings import Conditioning

SCALE = 0.18215
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PerFrameUNet(UNetSpatioTemporalConditionModel):  # type: ignore[misc]
    """diffusers' UNet with contexts, noise levels and time ids that may differ from frame to frame.

    Only ``forward`` is overridden: released checkpoints load by name.
    """

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_time_ids: Tensor,
        temporal_context: Literal["first", "per_frame"] = "first", return_dict: bool = False,
    ) -> tuple[Tensor]:  # fmt: skip
        """Network output F ``(B, T, C, h, w)`` as a 1-tuple.

        Args:
            sample: ``(B, T, 2C, h, w)``.
            timestep: ``(B,)`` or ``(B, T)``.
            encoder_hidden_states: ``(B, L, D)`` or ``(B, T, L, D)``.
            added_time_ids: ``(B, 3)`` or ``(B, T, 3)``.
            temporal_context: ``first``: temporal attention reads frame 0's tokens, as released; ``per_frame``: the
                mean of all frames' tokens.
            return_dict: ignored, for the signature's sake.

        Raises:
            ValueError: a context whose frames are not the sample's.
        """
        batch, frames = sample.shape[:2]
        embedding = self._embedding(timestep, added_time_ids, batch, frames, sample)
        context = encoder_hidden_states
        if context.ndim == 3:
            context = context.unsqueeze(1).expand(-1, frames, -1, -1)
        if tuple(context.shape[:2]) != (batch, frames):
            raise ValueError(f"context of shape {tuple(encoder_hidden_states.shape)} beside {batch} x {frames} frames")
        given = {
            "temb": embedding, "encoder_hidden_states": context.flatten(0, 1),
            "image_only_indicator": torch.zeros(batch, frames, dtype=sample.dtype, device=sample.device),
        }  # fmt: skip
        with self._temporal(context, temporal_context):
            return (self._blocks(sample.flatten(0, 1), given).unflatten(0, (batch, frames)),)

    def _embedding(self, timestep: Tensor, ids: Tensor, batch: int, frames: int, sample: Tensor) -> Tensor:
        """Time and id embedding of every frame ``(B*T, E)``."""
        time = timestep.reshape(-1, 1) if timestep.ndim < 2 else timestep
        time = time.expand(batch, frames).flatten()
        ids = ids.unsqueeze(1) if ids.ndim == 2 else ids
        ids = ids.expand(batch, frames, -1).flatten(0, 1)
        embedding: Tensor = self.time_embedding(self.time_proj(time).to(sample.dtype))
        extra = self.add_time_proj(ids.flatten()).view(batch * frames, -1).to(embedding.dtype)
        result: Tensor = embedding + self.add_embedding(extra)
        return result

    def _blocks(self, h: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The UNet proper on flattened frames ``(B*T, C, h, w)``."""
        h = self.conv_in(h)
        kept = [h]
        for block in self.down_blocks:
            h, skips = block(hidden_states=h, **_fitting(block, given))
            kept += list(skips)
        h = self.mid_block(hidden_states=h, **given)
        for number, block in enumerate(self.up_blocks):
            count = len(block.resnets)
            skips, kept = tuple(kept[-count:]), kept[:-count]
            last = number == len(self.up_blocks) - 1
            size = None if last or not kept else kept[-1].shape[2:]
            h = block(hidden_states=h, res_hidden_states_tuple=skips, upsample_size=size, **_fitting(block, given))
        out: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(h)))
        return out

    @contextmanager
    def _temporal(self, context: Tensor, mode: str) -> Iterator[None]:
        """While active, temporal attention reads the mean context instead of frame 0's where asked."""
        if mode not in ("first", "per_frame"):
            raise ValueError(f"unknown temporal_context {mode!r}: choose 'first' or 'per_frame'")
        if mode == "first":
            yield
            return
        pooled = context.mean(1)

        def swap(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            rows = kwargs["encoder_hidden_states"].shape[0] // len(pooled)
            return args, kwargs | {"encoder_hidden_states": pooled.repeat_interleave(rows, 0)}

        blocks = [m for n, m in self.named_modules() if n.split(".")[-2:-1] == ["temporal_transformer_blocks"]]
        handles = [m.register_forward_pre_hook(swap, with_kwargs=True) for m in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _fitting(block: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments a block takes: only some have cross attention."""
    if getattr(block, "has_cross_attention", False):
        return given
    return {k: v for k, v in given.items() if k != "encoder_hidden_states"}


class VideoVAE(nn.Module):
    """diffusers' temporal VAE, frozen; latents are scaled by 0.18215.

    Args:
        net: an AutoencoderKLTemporalDecoder.
        frame_size: (H, W).
        chunk: frames decoded together; the temporal decoder makes chunk borders visible.
    """

    def __init__(self, net: nn.Module, frame_size: tuple[int, int], chunk: int = 14) -> None:
        super().__init__()
        self.net: Any = net.requires_grad_(False).eval()
        self.chunk = chunk
        factor = 2 ** (len(self.net.config.block_out_channels) - 1)
        if frame_size[0] % factor or frame_size[1] % factor:
            raise ValueError(f"frame_size={frame_size} does not divide by {factor}")
        self.shape = (int(self.net.config.latent_channels), frame_size[0] // factor, frame_size[1] // factor)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Mode of the posterior times 0.18215, ``(B, T, C, h, w)``."""
        images = to_unit(frames, self.net.dtype).flatten(0, 1)
        latents: Tensor = self.net.encode(images).latent_dist.mode() * SCALE
        result: Tensor = latents.unflatten(0, frames.shape[:2])
        return result

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """uint8 frames ``(B, T, 3, H, W)``."""
        parts = []
        for piece in latents.split(self.chunk, 1):
            images = self.net.decode(piece.flatten(0, 1) / SCALE, num_frames=piece.shape[1]).sample
            parts.append(to_bytes(images).unflatten(0, piece.shape[:2]))
        return torch.cat(parts, 1)


class SVDNet(nn.Module):
    """UNet, action encoder and image token behind the interface of the own nets.

    Args:
        unet: a :class:`PerFrameUNet`.
        condition: time ids, for training and sampling alike.
        image_encoder: CLIP vision model with projection, frozen; None gives a zero image token.
        temporal_context: see :meth:`PerFrameUNet.forward`.
    """

    reach = 3
    per_frame_sigma = False

    def __init__(
        self, unet: PerFrameUNet, condition: Conditioning, image_encoder: nn.Module | None = None,
        temporal_context: Literal["first", "per_frame"] = "first",
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet, self.condition, self.temporal_context = unet, condition, temporal_context
        width = unet.config.cross_attention_dim
        self.width = int(width[0] if isinstance(width, (list, tuple)) else width)
        self.actions = ActionEncoder(self.width)
        self.image_encoder: Any = None if image_encoder is None else image_encoder.requires_grad_(False).eval()
        self._image: Tensor | None = None

    @torch.no_grad()
    def see(self, first: Tensor) -> None:
        """Remember the image tokens of frames 0 ``(B, 3, H, W)`` uint8, one per item of the batches that follow."""
        if self.image_encoder is None:
            self._image = None
            return
        images = F.interpolate(first.float() / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
        self._image = self.image_encoder(((images - mean) / std).to(self.image_encoder.dtype)).image_embeds

    def forward(
        self, x: Tensor, c_noise: Tensor, clean: Tensor, known: Tensor, actions: Tensor, yaw: Tensor | None,
        drop_image: Tensor, drop_action: Tensor,
    ) -> Tensor:  # fmt: skip
        """F of all frames; the arguments are those of the own nets' forward."""
        batch, frames = known.shape
        off = drop_image[:, None, None, None, None]
        order = torch.arange(frames, device=known.device).expand(batch, -1)
        latest = torch.where(known, order, torch.zeros_like(order)).cummax(1).values
        image = clean[torch.arange(batch, device=known.device)[:, None], latest] / SCALE
        image = (image + self.condition.noise_aug * torch.randn_like(image)) if self.condition.noise_aug else image
        image = image.masked_fill(off, 0)
        level = torch.where(known, torch.full_like(c_noise, -1.55), c_noise)
        ids = torch.tensor([[self.condition.fps, self.condition.motion_bucket, self.condition.noise_aug]])
        context = self._context(actions, drop_image, drop_action, frames)
        out: Tensor = self.unet(
            torch.cat([x, image.to(x.dtype)], 2), level.to(x.dtype), context,
            ids.expand(batch, -1).to(x), temporal_context=self.temporal_context,
        )[0]  # fmt: skip
        return out

    def _context(self, actions: Tensor, drop_image: Tensor, drop_action: Tensor, frames: int) -> Tensor:
        """[image token, action token] of every frame ``(B, T, 2, D)``; frame n reads the action leaving it."""
        token = self.actions(F.pad(actions, (0, 0, 0, 1))).masked_fill(drop_action[:, None, None], 0)
        seen = torch.zeros(len(actions), self.width, device=actions.device) if self._image is None else self._image
        seen = seen.to(token.dtype).masked_fill(drop_image[:, None], 0)
        return torch.stack([seen[:, None].expand(-1, frames, -1), token], 2)


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable product of rank r, zero at the start."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(.., in)`` to ``(.., out)``."""
        out: Tensor = self.base(x) + self.b(self.a(x))
        return out


def add_lora(net: nn.Module, rank: int) -> int:
    """Freeze a net and put LoRA on the projections of its attentions; returns how many."""
    net.requires_grad_(False)
    count = 0
    for name, module in list(net.named_modules()):
        for child in ("to_q", "to_k", "to_v"):
            layer = getattr(module, child, None)
            if isinstance(layer, nn.Linear) and "attn" in name:
                setattr(module, child, LoRALinear(layer, rank))
                count += 1
    return count


def build_svd(model: WorldModel) -> tuple[nn.Module, nn.Module]:
    """VAE and net: from the folder ``weights`` (unet, vae, image_encoder), or random with ``net.unet`` / ``net.vae``.

    Raises:
        ValueError: neither weights nor configurations.
    """
    args = dict(model.net_args)
    temporal = args.pop("temporal_context", "first")
    encoder: nn.Module | None = None
    if model.weights_path is not None:
        root = Path(model.weights_path)
        if not (root / "unet").is_dir():
            raise ValueError(f"{root} has no folder 'unet': give the folder of the pipeline")
        unet = PerFrameUNet.from_pretrained(root / "unet")
        vae = AutoencoderKLTemporalDecoder.from_pretrained(root / "vae")
        if (root / "image_encoder").is_dir():
            from transformers import CLIPVisionModelWithProjection

            encoder = CLIPVisionModelWithProjection.from_pretrained(root / "image_encoder")
    elif "unet" in args and "vae" in args:
        unet, vae = PerFrameUNet(**args["unet"]), AutoencoderKLTemporalDecoder(**args["vae"])
    else:
        raise ValueError("size 'svd' needs weights=<folder of the pipeline>, or net.unet and net.vae for random ones")
    if model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if model.lora_rank:
        add_lora(unet, model.lora_rank)
    return VideoVAE(vae, model.frame_size), SVDNet(unet, model.condition, encoder, temporal)
