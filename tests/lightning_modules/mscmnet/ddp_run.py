"""Run with a number of processes: trains MSCMNet a few steps, prints losses, metrics and writes the weights."""

import json
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch

from septet.datamodules.reid import ReIDQuadrupleStreams
from septet.lightning_modules.mscmnet import MSCMNet

STEPS, IDENTITIES = 6, 4


class FrozenBatchNorm(pl.Callback):
    """BN by its running statistics: torch's synchronised BN needs GPUs, and statistics of half a batch are others."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        for module in pl_module.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


class Losses(pl.Callback):
    """The mean of the ranks' losses of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        value = trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")
        self.values.append(float(value))


def main(processes: int, root: str, folder: str) -> None:
    """Test the seeded network, train it with P = 4 identities in a step over all processes, validate."""
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    data = ReIDQuadrupleStreams(root, image_size=(96, 48), p=IDENTITIES // processes, k=2, workers=0, eval_batch=13)
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
        max_steps=STEPS, max_epochs=-1,
        limit_train_batches=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
        callbacks=[FrozenBatchNorm(), losses],
    )  # fmt: skip
    settings = {
        "trunk": "micro",
        "residual": True,
        "lr": 0.03,
        "base_factor": 1.0,
        "alpha": 0.3,
        "gather_centers": True,
    }
    model = MSCMNet(12, (96, 48), rerank={"k1": 4, "k2": 2}, **settings)
    tested = trainer.test(model, data, verbose=False)[0]
    trainer.fit(model, data)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    spread = trainer.strategy.reduce(weights.clone(), reduce_op="mean") - weights
    assert float(spread.abs().max()) < 1e-6, "the ranks hold different weights"
    validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    if trainer.is_global_zero:
        torch.save(weights, Path(folder) / "weights.pt")
        print("RESULT " + json.dumps({"losses": losses.values, "validated": validated, "tested": tested}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
