"""Two gloo processes equal one: the AIF metric, the gradient of the loss, and everything a test logs."""

from __future__ import annotations

import json
import os
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tests.lightning_modules.drivingdojo import nets
from tests.support.processes import run_processes

from septet.datamodules.video import VideoClips
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.module import WorldModel
from septet.lightning_modules.drivingdojo.trajectory import Trajectory


def _paths():
    """Seven commands and imperfect paths, one of them failed, one standing."""
    generator = torch.Generator().manual_seed(0)
    commands = [torch.rand(6, 2, generator=generator) + 0.1 for _ in range(6)] + [torch.zeros(6, 2)]
    paths = [Trajectory.from_actions(a + 0.05 * torch.randn(6, 2, generator=generator)) for a in commands]
    paths[2] = Trajectory.failed(7)
    return commands, paths


def _aif(indices):
    commands, paths = _paths()
    metric = ActionInstructionFollowing()
    metric.update(actions=[commands[i] for i in indices], trajectories=[paths[i] for i in indices])
    return {k: float(v) for k, v in metric.compute().items()}


def _gradient(items):
    """Gradient of the mean loss over some of four clips at their own noise."""
    torch.manual_seed(0)
    model = WorldModel(frame_size=(16, 32), frames=4, net=nets.TINY)
    model.configure_model()
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (4, 4, 3, 16, 32), dtype=torch.uint8, generator=generator)
    actions, sigma = torch.rand(4, 3, 2, generator=generator), torch.rand(4, 4, generator=generator) + 0.1
    noise = torch.randn(4, 4, *model.latent_shape, generator=generator)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    model.loss(frames[items], actions[items], sigma=sigma[items], noise=noise[items], augment=False).backward()
    return torch.cat([p.grad.flatten() for p in model.net.parameters()])


def _test(world, folder):
    """Everything a test of a random model logs."""
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    data = VideoClips(clips=2, val_clips=2, test_clips=8, frames=4, batch_size=2)
    model = WorldModel(frames=4, steps=2, net=nets.TINY, aif="inverse_dynamics")
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", logger=False, barebones=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    return {k: float(v) for k, v in trainer.test(model, data, verbose=False)[0].items()}


def _both(rank, world, folder):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world), RANK=str(rank))
    gradient = _gradient(slice(2 * rank, 2 * rank + 2))
    torch.distributed.all_reduce(gradient)
    aif = _aif([0, 2, 4, 6] if rank == 0 else [1, 3, 5])
    return aif, (gradient / world).numpy(), _test(world, folder)


def test_two_processes_equal_one(tmp_path):
    pytest.importorskip("matplotlib")
    aif, gradient, tested = _aif(range(7)), _gradient(slice(0, 4)).numpy(), _test(1, str(tmp_path / "one"))
    assert (aif["clips_failed"], aif["clips_stationary"]) == (1, 1)
    assert tested["test/aif_clips"] == 8
    for found in run_processes(2, _both, str(tmp_path / "two"), timeout=240):
        assert found[0] == pytest.approx(aif, rel=1e-12, nan_ok=True)
        np.testing.assert_allclose(found[1], gradient, atol=1e-6, rtol=1e-4)
        assert found[2].keys() == tested.keys()
        assert found[2] == pytest.approx(tested, rel=1e-4, abs=1e-6)
    rows = json.loads((tmp_path / "two" / "media" / "aif_clips.json").read_text())
    assert len({row["clip"] for row in rows if row["case"] == "model"}) == 8
