"""The world model as a LightningModule: one masked-frame objective for image-to-video, rollout and video-to-video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from septet.lightning_modules.drivingdojo import checks, dreaming, evaluation, scoreboard, settings
from septet.lightning_modules.drivingdojo.actions import known_yaw
from septet.lightning_modules.drivingdojo.diffusion import edm_precondition, lognormal_sigma
from septet.lightning_modules.drivingdojo.ema import EMA
from septet.lightning_modules.drivingdojo.inverse import InverseDynamics
from septet.lightning_modules.drivingdojo.schedule import one_cycle
from septet.lightning_modules.drivingdojo.settings import Conditioning, SizeSettings
from septet.lightning_modules.task import Task

__all__ = ["Conditioning", "InverseDynamics", "WorldModel"]


class WorldModel(Task):
    """Dreams the frames that follow from given ones and a list of motions.

    Args:
        size: ``tiny`` (next-frame UNet, CPU), ``small`` (spatio-temporal transformer) or ``svd``.
        frame_size: (H, W).
        frames: longest clip the net sees at once; longer ones are dreamed in chunks.
        context: known frames at the start in training and evaluation.
        train_frames: train on random windows of so many frames, at most ``frames``; None means whole clips.
        conditioning: ``adaln`` or ``cross_tokens``.
        lr: peak of the one-cycle schedule of AdamW.
        ema: decay of the weight average that evaluation uses.
        dropout: shares of clips that lose image, action, and both, for guidance.
        context_noise: largest noise on known frames in training, against drift.
        steps: of the sampler.
        method: ``euler``, ``heun`` or ``dpmpp_2m``.
        guidance: weights of image and action; (1, 1) is one pass.
        fps: frames per second; one object serves training and sampling (``svd``).
        motion_bucket: the same.
        noise_aug: the same.
        net: further arguments of the net.
        weights: folder of pretrained weights (``small``: AutoencoderTiny; ``svd``: the pipeline).
        lora_rank: train only LoRA on attention (``svd``); 0 trains everything.
        gradient_checkpointing: trade time for memory.
        aif: estimator of the test: ``none``, ``inverse_dynamics``, ``pycolmap``, ``opencv``, or a checkpoint.
        aif_protocol: ``strict``, ``paper`` or ``official``.
        aif_options: arguments of the estimator, such as {matcher: "sequential:10", max_features: 4096, timeout: 120}.
        aif_workers: processes that run the estimator; 0 runs it in this one.
        aif_cache_dir: remember recovered paths there, by a hash of frames, camera, mask and estimator.
        bonnet: pixels the estimator ignores: ``find`` looks for the car's own bonnet in every real clip, a number is
            the first row to ignore (286 for DrivingDojo at 576x320).
        extractors: TorchScript files for Frechet distances by what they are: ``fvd`` (I3D), ``fid`` (Inception),
            ``frd`` (any on 224 px clips).

    Raises:
        ValueError: unknown size, conditioning, method, protocol, or numbers out of range.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[str] = "min"

    def __init__(
        self,
        size: Literal["tiny", "small", "svd"] = "tiny",
        frame_size: tuple[int, int] = (32, 64),
        frames: int = 8,
        context: int = 1,
        train_frames: int | None = None,
        conditioning: Literal["adaln", "cross_tokens"] | None = None,
        lr: float = 1.5e-3,
        ema: float = 0.995,
        dropout: tuple[float, float, float] = (0.1, 0.1, 0.1),
        context_noise: float = 0.1,
        steps: int = 4,
        method: Literal["euler", "heun", "dpmpp_2m"] = "euler",
        guidance: tuple[float, float] = (1.0, 1.0),
        fps: int = 5,
        motion_bucket: int = 127,
        noise_aug: float = 0.0,
        net: dict[str, Any] = {},  # noqa: B006 - never changed
        weights: str | None = None,
        lora_rank: int = 0,
        gradient_checkpointing: bool = False,
        aif: str = "none",
        aif_protocol: Literal["strict", "paper", "official"] = "strict",
        aif_options: dict[str, Any] = {},  # noqa: B006 - never changed
        aif_workers: int = 0,
        aif_cache_dir: str | None = None,
        bonnet: int | Literal["find"] | None = None,
        extractors: dict[str, str] = {},  # noqa: B006 - never changed
    ) -> None:
        super().__init__()
        values = dict(locals())
        self.save_hyperparameters(settings.plain(values, WorldModel))
        checks.check(self.hparams)
        self.size, self.frame_size, self.frames, self.context = size, (frame_size[0], frame_size[1]), frames, context
        self.train_frames, self.conditioning, self.lr = train_frames, conditioning or settings.FORM[size], lr
        self.dropout, self.context_noise, self.steps, self.method = tuple(dropout), context_noise, steps, method
        self.guidance, self.net_args, self.weights_path = (guidance[0], guidance[1]), dict(net), weights
        self.condition = Conditioning(fps, motion_bucket, noise_aug)
        self.lora_rank, self.gradient_checkpointing = lora_rank, gradient_checkpointing
        self.aif, self.aif_protocol, self.bonnet, self.extractors = aif, aif_protocol, bonnet, dict(extractors)
        self.aif_options, self.aif_workers, self.aif_cache_dir = dict(aif_options), aif_workers, aif_cache_dir
        self.preset: SizeSettings = settings.SIZES[size]
        self.average = EMA(ema)
        self.net: nn.Module | None = None
        self.codec: Any = None

    # -- networks ---------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build codec and net once."""
        if self.net is None:
            self.codec, self.net = settings.build(self)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a frame's latent."""
        self.configure_model()
        shape: tuple[int, int, int] = self.codec.shape
        return shape

    def configure_optimizers(self) -> Any:
        """AdamW over what is trainable, one cycle."""
        return one_cycle(self.parameters(), self.lr, self.trainer)

    # -- objective --------------------------------------------------------------------------------------------------

    def loss(
        self, frames: Tensor, actions: Tensor, *, known: Tensor | None = None, sigma: Tensor | None = None,
        noise: Tensor | None = None, augment: bool = True, yaw: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Denoise the unknown frames given the known ones and the actions (weighted EDM loss).

        Args:
            frames: ``(B, T, 3, H, W)`` uint8.
            actions: ``(B, T-1, 2)`` metres.
            known: given frames ``(B, T)`` bool; default the first ``context``.
            sigma: noise levels ``(B, T)``; drawn by default. Known frames ignore theirs.
            noise: standard normal ``(B, T, C, h, w)``; drawn by default.
            augment: drop conditions and blur known frames at random.
            yaw: ``(B, T-1)`` radians; nan or None for the chord rule.

        Returns:
            Mean over an item's unknown frames, then over items, 0-d.

        Raises:
            ValueError: shapes that do not fit, or an item without an unknown frame.
        """
        checks.check_clip(frames, actions, self.frame_size)
        self.configure_model()
        batch, count = frames.shape[:2]
        known = checks.known_mask(known, batch, count, self.context, frames.device)
        clean = self.codec.encode(frames)
        self._see(frames)
        sigma = self._draw_sigma(batch, count, clean.device) if sigma is None else sigma
        noise = torch.randn_like(clean) if noise is None else noise
        drop_image, drop_action = self._draw_dropout(batch, clean.device, augment)
        given = clean
        if augment:
            blur = torch.rand(batch, 1, 1, 1, 1, device=clean.device) * self.context_noise
            given = clean + blur * torch.randn_like(clean)
        level = sigma[..., None, None, None].to(clean.dtype)
        denoised = self.denoise(clean + level * noise, sigma, given, known, actions, yaw, drop_image, drop_action)
        weight = edm_precondition(sigma, self.preset.sigma_data, self.preset.form).weight
        error = (denoised - clean).square().mean((2, 3, 4)).float() * weight.float()
        unknown = (~known).float()
        result: Tensor = ((error * unknown).sum(1) / unknown.sum(1)).mean()
        return result

    def denoise(
        self, x: Tensor, sigma: Tensor, given: Tensor, known: Tensor, actions: Tensor, yaw: Tensor | None,
        drop_image: Tensor, drop_action: Tensor,
    ) -> Tensor:  # fmt: skip
        """Clean estimate D of all frames ``(B, T, C, h, w)``; known ones are the given latents themselves."""
        assert self.net is not None
        safe = torch.where(known, torch.ones_like(sigma), sigma)
        factors = edm_precondition(safe, self.preset.sigma_data, self.preset.form)
        c_skip, c_out, c_in = (f[..., None, None, None].to(x.dtype) for f in factors[:3])
        x = torch.where(known[..., None, None, None], given, x)
        out = self.net(c_in * x, factors.c_noise, given, known, actions, yaw, drop_image, drop_action)
        return torch.where(known[..., None, None, None], given, c_skip * x + c_out * out)

    def _see(self, frames: Tensor) -> None:
        """Show frame 0 to nets that read an image token."""
        see = getattr(self.net, "see", None)
        if see is not None:
            see(frames[:, 0])

    def _draw_sigma(self, batch: int, count: int, device: torch.device) -> Tensor:
        """One level per frame for next-frame nets, one per clip for whole-clip nets."""
        per_frame = getattr(self.net, "per_frame_sigma", False)
        normal = torch.randn(batch, count if per_frame else 1, device=device).expand(batch, count)
        return lognormal_sigma(normal, self.preset.p_mean, self.preset.p_std)

    def _draw_dropout(self, batch: int, device: torch.device, augment: bool) -> tuple[Tensor, Tensor]:
        """Which items lose their image and their actions, three disjoint cases drawn independently per item."""
        image, action, both = self.dropout if augment else (0.0, 0.0, 0.0)
        u = torch.rand(batch, device=device) if augment else torch.ones(batch, device=device)
        either = u < both
        return either | ((u >= both) & (u < both + image)), either | ((u >= both + image) & (u < both + image + action))

    # -- dreaming ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self, first: Tensor, actions: Tensor, *, steps: int | None = None, seed: int | list[int] = 0,
        method: str | None = None, guidance: tuple[float, float] | None = None, yaw: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Dream the frames after the first K.

        Args:
            first: ``(B, K, 3, H, W)`` uint8, returned unchanged.
            actions: ``(B, T-1, 2)`` metres; T > K. T may exceed ``frames``: chunks then overlap in latent space.
            steps: of the sampler; default the constructor's, like ``method`` and ``guidance``.
            seed: s means s + b for item b, or one seed per item.
            method: of the sampler.
            guidance: weights of image and action.
            yaw: ``(B, T-1)`` radians; nan or None for the chord rule.

        Returns:
            ``(B, T, 3, H, W)`` uint8; an item does not depend on the batch around it.

        Raises:
            ValueError: shapes that do not fit, ``steps`` below 1, unknown ``method``.
        """
        checks.check_prompt(first, actions, self.frame_size)
        seeds = [seed + b for b in range(len(first))] if isinstance(seed, int) else list(seed)
        if len(seeds) != len(first):
            raise ValueError(f"{len(seeds)} seeds beside {len(first)} clips")
        turn = known_yaw(actions, yaw)
        asked = ((actions[:, n], turn[:, n]) for n in range(actions.shape[1]))
        chunks = dreaming.latents(self, first, asked, seeds, steps, method, guidance)
        return torch.cat([first, *(self.codec.decode(chunk) for chunk in chunks)], 1)

    @torch.no_grad()
    def dream(
        self, first: Tensor, actions: Iterable[Any], *, steps: int | None = None, seed: int = 0
    ) -> Iterator[Tensor]:
        """Stream the frames :meth:`generate` would give after the first K, one by one, as actions arrive.

        Whole-clip nets answer in chunks: they need the actions of a chunk before its first frame.

        Args:
            first: ``(1, K, 3, H, W)`` uint8.
            actions: (forward, right) metres of every step, beginning with the one leaving frame 0.
            steps: of the sampler.
            seed: as in :meth:`generate`.
        """
        checks.check_first(first, self.frame_size)
        if len(first) != 1:
            raise ValueError(f"dream streams one clip, got a batch of {len(first)}")
        for chunk in dreaming.latents(self, first, dreaming.asked(actions, first.device), [seed], steps):
            yield from self.codec.decode(chunk)[0]

    # -- training and evaluation ------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss on whole clips or on random windows of them."""
        frames, actions, yaw = batch["frames"], batch["actions"], batch["yaw"]
        if self.train_frames is not None and self.train_frames < frames.shape[1]:
            frames, actions, yaw = settings.random_windows(frames, actions, yaw, self.train_frames)
        loss = self.loss(frames, actions, yaw=yaw)
        self.log("train/loss", loss)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the weight average: before any checkpoint of this step is written."""
        super().optimizer_step(*args, **kwargs)
        self.average.update(self)

    def on_validation_epoch_start(self) -> None:
        """Evaluate the averaged weights."""
        self.average.swap_in(self)

    def on_validation_epoch_end(self) -> None:
        """Train on with the current weights; before checkpoints are written."""
        self.average.swap_out(self)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss at fixed noise, and PSNR of the dream."""
        evaluation.validation_step(self, batch, batch_idx)

    def setup(self, stage: str) -> None:
        """Open and check what the stage needs before any clip is dreamed: what is missing ends the run here."""
        data = getattr(self.trainer, "datamodule", None)
        checks.check_data(self, data, stage)
        if stage == "test":
            self._tools = scoreboard.TestTools(self)
            checks.check_estimator(self, self._tools.pool, data)

    def teardown(self, stage: str) -> None:
        """End the estimator's processes."""
        if stage == "test" and (tools := getattr(self, "_tools", None)) is not None:
            tools.close()

    def on_test_epoch_start(self) -> None:
        """Evaluate the averaged weights."""
        self.average.swap_in(self)
        self._test = scoreboard.TestState(self, self._tools)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Dream every clip and score picture and motion."""
        self._test.step(batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics, draw the pictures."""
        self._test.finish()
        self.average.swap_out(self)

    on_predict_epoch_start, on_predict_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Dream from the first frames; writes an mp4 per clip."""
        return evaluation.predict_step(self, batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weight average beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ema"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weight average back."""
        super().on_load_checkpoint(checkpoint)
        if "ema" in checkpoint:
            self.average.load_state_dict(checkpoint["ema"])

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol of the run record."""
        return settings.record(self, getattr(self, "_tools", None))
