"""Two gloo processes equal one: the loss with gathered centres and its gradient, the metric, and a whole training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.paths import ROOT
from tests.support.processes import run_processes

from septet.datamodules.reid import write_synthetic
from septet.kernels.ranking import SYSU
from septet.lightning_modules.mscmnet import MSCMNet
from septet.lightning_modules.mscmnet.metrics import ReIDMetric


def rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 6, 5, generator=g)  # stream, rank, row, width
    y = torch.tensor([[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]])
    return x, y


def metric_rows():
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=g), torch.randn(24, 4, generator=g)


def update(metric, queries, gallery):
    q, g = metric_rows()
    for index, f, is_query in ((queries, q, True), (gallery, g, False)):
        index = torch.tensor(index)
        cams = torch.full_like(index, 6 if is_query else 1)
        metric.update(f[index], index % 4, cams, index, is_query=is_query)


def both(rank, world):
    """What each process computes: gradient averaged over ranks as DDP does, and the metric."""
    x, y = rows()
    module = MSCMNet(6, (96, 48), trunk="micro", gather_centers=True, alpha=0.3)
    mine = x[:, rank].reshape(24, 5).clone().requires_grad_()
    loss = module.metric_loss(mine, y[rank].repeat(4), 4)
    loss.backward()
    metric = ReIDMetric(SYSU)
    update(metric, [rank, *range(rank, 12, 2)], list(range(rank * 12, rank * 12 + 12)))
    values = {k: float(v) for k, v in metric.compute().items()}
    return loss.item(), mine.grad.numpy() / world, values


@pytest.mark.slow
def test_two_processes_equal_one():
    x, y = rows()
    whole = x.reshape(4, 12, 5).reshape(48, 5).clone().requires_grad_()
    module = MSCMNet(6, (96, 48), trunk="micro", alpha=0.3)
    loss = module.metric_loss(whole, y.flatten().repeat(4), 4)
    loss.backward()
    grad = whole.grad.view(4, 2, 6, 5)
    metric = ReIDMetric(SYSU)
    update(metric, list(range(12)), list(range(24)))
    expected = {k: float(v) for k, v in metric.compute().items()}
    for rank, (value, ours, values) in enumerate(run_processes(2, both)):
        assert value == pytest.approx(loss.item(), abs=1e-6)
        np.testing.assert_allclose(ours, grad[:, rank].reshape(24, 5).numpy(), atol=1e-6)
        assert values == pytest.approx(expected)


def trained(processes, root, folder):
    """Losses and metrics of a training on that many processes; its weights."""
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("ddp_run.py")
    command = [sys.executable, str(script), str(processes), str(root), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line[7:]), torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.slow
def test_training_on_two_processes_equals_one(tmp_path):
    """Six steps with P = 4 in all: the same identities, images and augmentation, losses, weights and metrics.

    The test runs on the seeded weights before, where every feature is the same.

    BN is frozen: its synchronised form needs GPUs, and per-process statistics differ from those of the whole batch.
    """
    root = write_synthetic(tmp_path / "sysu", "sysu")
    (one, alone), (two, together) = (trained(n, root, tmp_path / str(n)) for n in (1, 2))
    assert len(one["losses"]) == 6
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    np.testing.assert_allclose(together.numpy(), alone.numpy(), rtol=0, atol=1e-5)
    assert two["tested"].keys() == one["tested"].keys()
    assert two["tested"] == pytest.approx(one["tested"], abs=1e-12)  # same weights, images counted once
    assert two["validated"] == pytest.approx(one["validated"], abs=5e-3)  # weights apart by roundings may swap a rank
