"""The platform's own figures: start-up times, and Lightning's overhead per step against a bare torch loop."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """Start-up times, a report over a large ledger, and the step overhead."""
    repeats = 3 if quick else 7
    return [
        _start(["methods", "list"], repeats, limit="target <= 0.3 s"),
        _start(["fit", "--help"], repeats, limit=""),
        _start(["fit", "-c", "configs/cne_n/smoke.yaml", "--print_config"], max(2, repeats // 2), limit=""),
        _report(rows=100 if quick else 1000, repeats=1 if quick else 3),
        _overhead(device, steps=40 if quick else 150, repeats=3 if quick else 5),
    ]


def _start(words: list[str], repeats: int, limit: str) -> dict[str, Any]:
    """Median wall time of one command as a whole process, beside an interpreter that does nothing."""
    ours, bare = [], []
    for _ in range(repeats):
        ours.append(_process([sys.executable, "-m", "septet", *words]))
        bare.append(_process([sys.executable, "-c", "pass"]))
    value, peer = statistics.median(ours), statistics.median(bare)
    return {
        "name": f"septet {' '.join(words)}", "value": value, "unit": "s", "peer": "python -c pass", "peer_value": peer,
        "ratio": value / peer, "limit": limit, "note": f"median of {repeats} processes",
    }  # fmt: skip


def _report(rows: int, repeats: int) -> dict[str, Any]:
    """``septet report`` as a whole process over a ledger of that many evaluations of run directories that exist."""
    from septet.launch.runs import Ledger, create_run

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        book = Ledger(root / "ledger.sqlite")
        for number in range(rows):
            run_id, name = f"r{number:04}", f"case{number % 40}"
            if number % 10 == 0:
                run = create_run(root, "cne_n", name, run_id)
                (run / "metrics.csv").write_text(
                    "step,epoch,val/ap\n" + "".join(f"{i},0,{i / 99}\n" for i in range(99))
                )
            book.add(
                {
                    "run_id": run_id, "name": name, "method": "cne_n", "dataset": f"set{number % 7}", "stage": "test",
                    "seed": number % 5, "metrics": {"test/ap": number / rows, "test/auc": 0.5},
                    "monitor": {"metric": "val/ap", "mode": "max"}, "finished": f"2026-01-01T00:00:{number % 60:02}",
                }
            )  # fmt: skip
        words = [sys.executable, "-m", "septet", "report"]
        value = statistics.median(_process(words, SEPTET_RUNS=str(root)) for _ in range(repeats))
    return {
        "name": f"septet report over {rows} ledger rows", "value": value, "unit": "s", "peer": "", "peer_value": None,
        "ratio": None, "limit": "target < 5 s", "note": f"median of {repeats} processes",
    }  # fmt: skip


def _process(command: list[str], **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    return time.perf_counter() - start


class _Net(LightningModule):
    """A step of about ten milliseconds on one core."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean square error."""
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), 1e-3)


def _overhead(device: str, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds per step of ``Trainer.fit`` with our loggers and callbacks over those of a bare loop, in alternation."""
    width, batch = 640, 400
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(steps * batch, width), torch.randn(steps * batch, 1))
    ours, bare = [], []
    for _ in range(repeats):
        ours.append(_lightning(_Net(width), data, batch, device))
        bare.append(_bare(_Net(width), data, batch, device))
    value, peer = statistics.median(ours) / steps, statistics.median(bare) / steps
    return {
        "name": "training step under the Trainer", "value": value * 1e3, "unit": "ms", "peer": "bare torch loop",
        "peer_value": peer * 1e3, "ratio": value / peer, "limit": "target <= 1.10x at 10 ms steps",
        "note": f"{steps} steps, median of {repeats} alternating runs",
    }  # fmt: skip


def _lightning(model: _Net, data: TensorDataset, batch: int, device: str) -> float:
    from septet.launch.callbacks import PlainProgress
    from septet.launch.loggers import RunCSVLogger
    from septet.launch.preemption import SafePreemption

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1, accelerator="gpu" if device == "cuda" else "cpu", devices=1, default_root_dir=folder,
            logger=[RunCSVLogger(Path(folder))], callbacks=[PlainProgress(1e9), SafePreemption()],
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        clock = _Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.fit(model, DataLoader(data, batch_size=batch))
    return clock.seconds


class _Clock(Callback):
    """Time between the first and the last training batch of an epoch."""

    seconds = 0.0
    _start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._start


def _bare(model: _Net, data: TensorDataset, batch: int, device: str) -> float:
    net = model.net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    loader = DataLoader(data, batch_size=batch)
    start = time.perf_counter()
    for inputs, target in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(inputs.to(device)), target.to(device))
        loss.backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
