"""The toy method with a pause in every step, so that a signal meets it at work."""

from __future__ import annotations

import time
from typing import Any

import torch
from tests.support.toy import Toy
from torch import Tensor


class SlowToy(Toy):
    def __init__(self, lr: float = 0.1, width: int = 4, pause: float = 0.25) -> None:
        super().__init__(lr, width)
        self.save_hyperparameters()
        self.pause = pause

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        time.sleep(self.pause)
        loss = super().training_step(batch, batch_idx)
        assert torch.isfinite(loss)
        return loss
