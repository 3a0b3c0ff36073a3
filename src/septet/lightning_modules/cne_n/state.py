"""Life cycle of models whose state grows with the stream: reset, A after training, B after validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn


class StreamStateCallback(pl.Callback):
    """Keeps a model's state from leaking between epochs, training, validation and test.

    The network offers ``reset``, ``snapshot``, ``restore`` and ``write``. State A stands after the training events (of
    the epoch so far), B after the validation events. Validation starts from A, its new-node part from A again, and
    training goes on from A; test starts from B, its new-node part from B again. ``validate``, ``test`` and ``predict``
    from a checkpoint of a whole epoch take its state A; without one they replay the events with the weights at hand.
    """

    def __init__(self) -> None:
        self._start: Any = None
        self._before: Any = None
        self._net: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """One process only: every event must be written."""
        if trainer.world_size > 1:
            raise ValueError(
                f"a learned memory cannot be split over {trainer.world_size} processes: set trainer.devices=1"
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An empty state, or the one of the checkpoint when resuming inside an epoch."""
        self._net = pl_module.net
        saved = getattr(pl_module, "stream_state", None)
        if saved is not None and trainer.fit_loop.epoch_loop.batch_progress.current.completed > 0:
            self._net.restore(saved["state"])
        else:
            self._net.reset()
        pl_module.stream_state = None  # type: ignore[assignment]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """State A."""
        self._net = pl_module.net
        self._before = self._net.snapshot()
        if trainer.state.fn != TrainerFn.FITTING:
            self._to_a(trainer, pl_module)
        self._start = self._net.snapshot()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """State B."""
        self._net = pl_module.net
        self._before = self._net.snapshot()
        self._to_a(trainer, pl_module)
        self._replay(trainer, "val")
        self._start = self._net.snapshot()

    on_predict_start = on_test_start

    def _to_a(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint's state A, or a replay of the training events."""
        saved = getattr(pl_module, "stream_state", None)
        if saved is not None and saved["whole"]:
            self._net.restore(saved["state"])
            return
        self._net.reset()
        self._replay(trainer, "train")

    def _replay(self, trainer: pl.Trainer, part: str) -> None:
        """Write the events of a part."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        stream, device = data.stream, trainer.strategy.root_device
        for at in torch.split(getattr(data.splits, part), data.batch_size):
            edge = None if stream.edge_feat is None else stream.edge_feat[at + 1].to(device)
            src, dst, time = (c[at].to(device) for c in (stream.src, stream.dst, stream.time))
            self._net.write(src, dst, time, edge)

    def _part_start(self, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0 and dataloader_idx > 0:
            self._net.restore(self._start)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The new-node part begins from the same state."""
        self._part_start(batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The new-node part begins from the same state."""
        self._part_start(batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on from A."""
        self._net.restore(self._before)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As before the test."""
        self._net.restore(self._before)

    on_predict_end = on_test_end
