"""A method of a few parameters with dropout, and its data: enough to test the house quickly."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from septet.datamodules.resume import ResumableBatches, ResumableLoader
from septet.lightning_modules.task import Task


class Points(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(8, generator=torch.Generator().manual_seed(index))
        return x, x.sum()


class ToyData(LightningDataModule):
    shards_itself: ClassVar[bool] = True

    def __init__(self, batch_size: int = 8, workers: int = 0, fail: str = "") -> None:
        super().__init__()
        self.batch_size, self.workers, self.fail = batch_size, workers, fail

    def setup(self, stage: str) -> None:
        if self.fail:
            raise ValueError(self.fail)

    def record_dataset(self) -> str:
        return "points"

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Points(), ResumableBatches(64, self.batch_size, seed=1), num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(), batch_size=16)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


class Toy(Task):
    monitor: ClassVar[str] = "val/loss"

    def __init__(self, lr: float = 0.1, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.width = lr, width
        self.net: nn.Module | None = None

    def configure_model(self) -> None:
        if self.net is None:
            self.net = nn.Sequential(nn.Linear(8, self.width), nn.Dropout(0.5), nn.Linear(self.width, 1))

    def _loss(self, batch: list[Tensor]) -> Tensor:
        assert self.net is not None
        return nn.functional.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self._loss(batch))

    def on_test_end(self) -> None:
        self.save_picture("square", torch.zeros(8, 8, 3, dtype=torch.uint8).numpy() + 200)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> list[dict[str, float]]:
        assert self.net is not None
        return [{"y": float(v)} for v in self.net(batch[0]).squeeze(-1)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)


class Other(Toy):
    """Another class, for a checkpoint that does not fit."""


class SignalAt(Callback):
    """Sends a signal to this process after a given step."""

    def __init__(self, at: int = 12, number: int = 15) -> None:
        self.at, self.number = at, number

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.at and not os.environ.get("SEPTET_TEST_NO_SIGNAL"):
            os.kill(os.getpid(), self.number)


class DieAtTest(Callback):
    """Ends one rank without a word in its first test batch."""

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def on_test_batch_start(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_rank == self.rank:
            os._exit(3)
