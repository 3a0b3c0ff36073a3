"""What all seven methods share: three build hooks, exact resume, and a place for pictures."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor


class Task(LightningModule):
    """Base of every method.

    A subclass calls ``super().__init__()`` first, which runs :meth:`configure_losses` and :meth:`configure_metrics`;
    :meth:`configure_model` is Lightning's own hook, called before any stage and when a checkpoint is loaded.

    Attributes:
        monitor: logged metric by which the best checkpoint is chosen.
        mode: ``"max"`` or ``"min"``, the better direction of ``monitor``.
        trainable: False for methods that have no weights to train.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[str] = "min"
    trainable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._restored_rng: list[dict[str, Any]] | None = None
        self.configure_losses()
        self.configure_metrics()

    def configure_model(self) -> None:
        """Build the networks if they are absent; must be idempotent."""

    def configure_losses(self) -> None:
        """Build the losses; runs inside the constructor, before the subclass sets attributes."""

    def configure_metrics(self) -> None:
        """Build the metrics; runs inside the constructor, before the subclass sets attributes."""

    def record_fields(self) -> dict[str, Any]:
        """Blocks ``model``, ``protocol`` and ``criteria`` of the run record; empty by default."""
        return {}

    # -- pictures ---------------------------------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path:
        """The run directory: where this run may write files of its own."""
        return Path(self.trainer.default_root_dir)

    def save_media(self, name: str, data: bytes | str) -> Path | None:
        """Write ``media/<name>`` on rank zero and return its path (None on other ranks)."""
        if not self.trainer.is_global_zero or is_fast_run(self.trainer) or self.trainer.sanity_checking:
            return None
        path = self.run_dir / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def save_picture(self, name: str, picture: Any) -> Path | None:
        """Write ``media/<name>.png`` and hand it to loggers that take images.

        Args:
            name: file name without suffix; the report shows it as the caption.
            picture: PNG bytes, a matplotlib figure, or an array ``(H, W)`` or ``(H, W, 3)`` uint8.
        """
        path = self.save_media(f"{name}.png", _png(picture))
        for logger in self.loggers if path is not None else []:
            if hasattr(logger, "log_image"):
                logger.log_image(key=f"media/{name}", images=[str(path)])
        return path

    # -- exact resume -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states of all ranks, as plain types and tensors."""
        states: list[Any] = [rng_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, rng_state())
        checkpoint["septet_rng"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random states; they are put back when training starts."""
        self._restored_rng = checkpoint.get("septet_rng")

    def on_train_start(self) -> None:
        """Put back random states and let the configured learning rate and weight decay win over restored ones."""
        if self._restored_rng is None:
            return
        if self.global_rank < len(self._restored_rng):
            set_rng_state(self._restored_rng[self.global_rank])
        self._restored_rng = None
        for line in self._reapply_optimizer_settings():
            rank_zero_info(line)

    def _reapply_optimizer_settings(self) -> list[str]:
        """Compare live optimisers with freshly configured ones and copy what the configuration says.

        Restored optimiser state would otherwise bring the checkpoint's learning rate back. A scheduled rate keeps
        its progress: the current value is scaled by configured over restored base rate.
        """
        state = rng_state()
        fresh_optimizers, fresh_schedulers = _init_optimizers_and_lr_schedulers(self)
        set_rng_state(state)
        lines = []
        for live, fresh in zip(self.trainer.optimizers, fresh_optimizers, strict=False):
            for number, (group, wanted) in enumerate(zip(live.param_groups, fresh.param_groups, strict=False)):
                lines += _apply_group(group, wanted, number)
        for config, fresh_config in zip(self.trainer.lr_scheduler_configs, fresh_schedulers, strict=False):
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = list(fresh_config.scheduler.base_lrs)
        return lines


def _apply_group(group: dict[str, Any], wanted: dict[str, Any], number: int) -> list[str]:
    """Copy base rate and weight decay of ``wanted`` into ``group``; return one line per change."""
    lines = []
    base = "initial_lr" if "initial_lr" in group and "initial_lr" in wanted else "lr"
    old, new = float(group[base]), float(wanted[base])
    if old != new:
        lines.append(f"learning rate of group {number}: {old:g} in the checkpoint, {new:g} in the configuration (used)")
        group["lr"] = float(group["lr"]) * new / old if old else new
        group[base] = new
    if group.get("weight_decay") != wanted.get("weight_decay"):
        lines.append(
            f"weight decay of group {number}: {group.get('weight_decay')} in the checkpoint, "
            f"{wanted.get('weight_decay')} in the configuration (used)"
        )
        group["weight_decay"] = wanted.get("weight_decay")
    return lines


def is_fast_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which leaves nothing behind."""
    return bool(getattr(trainer, "fast_dev_run", False))


def rng_state() -> dict[str, Any]:
    """Python's, numpy's, torch's and CUDA's random states as plain types and tensors."""
    kind, keys, pos, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = random.getstate()
    return {
        "python": [state[0], list(state[1]), state[2]],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what :func:`rng_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def _png(picture: Any) -> bytes:
    """PNG bytes of a figure, an array or bytes."""
    if isinstance(picture, bytes):
        return picture
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()
    from PIL import Image

    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if array.dtype != np.uint8:
        raise ValueError(f"a picture array must be uint8, got {array.dtype}; scale it to 0..255 first")
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
