"""Run with a number of processes: fits and tests CNEN, prints metrics and a sum over the features as JSON."""

import json
import sys
import warnings

import lightning.pytorch as pl
import torch

from septet.datamodules.temporal_graph import TemporalGraphEvents
from septet.lightning_modules.cne_n import CNEN

NET = {"node_dim": 16, "edge_dim": 16, "time_dim": 10, "channel_dim": 6}


def main(processes: int, epochs: int) -> None:
    """Print one line of JSON on rank zero."""
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    data = TemporalGraphEvents(generator={"num_nodes": 60, "num_events": 600}, batch_size=25, num_negatives=12)
    trainer = pl.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=epochs,
        logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=sys.argv[3],
    )  # fmt: skip
    model = CNEN(net=NET, lr=1e-2)
    if epochs:
        trainer.fit(model, data)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        spread = trainer.strategy.reduce(weights, reduce_op="mean") - weights
        assert float(spread.abs().max()) < 1e-6, "the ranks hold different weights"
    result = trainer.test(model, data, verbose=False)[0]
    links = data.evaluation_links("test")
    assert links.src_feat is not None
    digest = int((links.src_feat.long() * torch.arange(links.src_feat.numel()).view_as(links.src_feat)).sum())
    every = trainer.strategy.reduce(torch.tensor(float(digest % 2**20)), reduce_op="mean")
    assert float(every) == float(digest % 2**20), "the ranks hold different features"
    if trainer.is_global_zero:
        print("RESULT " + json.dumps({"digest": digest, **result}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
