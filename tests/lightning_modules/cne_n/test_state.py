"""Learned memories do not leak: every part starts from its state, whatever ran before."""

import lightning.pytorch as pl
import pytest
import torch

from septet.datamodules.temporal_graph import TemporalGraphEvents
from septet.lightning_modules.cne_n.baselines import EdgeBankBaseline, LinkBaseline

NET = {"node_dim": 8, "edge_dim": 8, "time_dim": 8, "neighbors": 4}


def data() -> TemporalGraphEvents:
    return TemporalGraphEvents(generator={"num_nodes": 60, "num_events": 600}, batch_size=50, structure=None, length=5)


def trainer(path, **kwargs) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=path, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, **kwargs,
    )  # fmt: skip


def test_tgn_life_cycle(tmp_path) -> None:
    pl.seed_everything(0, verbose=False)
    model = LinkBaseline("tgn", NET, lr=1e-2)
    t = trainer(tmp_path, max_epochs=2)
    t.fit(model, data())
    after = model.net.snapshot()
    first = t.test(model, data(), verbose=False)[0]
    for name, value in model.net.snapshot().items():
        assert torch.equal(value, after[name]), name
    t.validate(model, data(), verbose=False)
    assert t.test(model, data(), verbose=False)[0] == first
    assert 0 < first["test/ap"] <= 1


def test_validation_leaves_training_untouched(tmp_path) -> None:
    weights = []
    for limit in (0, 1.0):
        pl.seed_everything(0, verbose=False)
        model = LinkBaseline("tgn", NET, lr=1e-2)
        trainer(tmp_path, max_epochs=2, limit_val_batches=limit).fit(model, data())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_checkpoint_carries_the_learned_state(tmp_path) -> None:
    pl.seed_everything(0, verbose=False)
    model = LinkBaseline("tgn", NET, lr=1e-2)
    t = trainer(tmp_path, max_epochs=1)
    t.fit(model, data())
    t.save_checkpoint(tmp_path / "tgn.ckpt")
    assert torch.load(tmp_path / "tgn.ckpt", weights_only=True)["stream_state"]["state"].keys() >= {"memory", "pending"}
    other = LinkBaseline.load_from_checkpoint(tmp_path / "tgn.ckpt", weights_only=True)
    result = trainer(tmp_path).test(other, data(), verbose=False)[0]
    assert result["test/ap"] > 0


@pytest.mark.parametrize("name", ["graphmixer", "dygformer"])
def test_stateless_baselines_train(tmp_path, name: str) -> None:
    sizes = {"node_dim": 8, "edge_dim": 8, "time_dim": 8}
    net = sizes | ({"tokens": 4} if name == "graphmixer" else {"channel_dim": 4, "patch": 2})
    model = LinkBaseline(name, net)
    t = trainer(tmp_path, max_epochs=1)
    t.fit(model, data())
    assert 0 < t.test(model, data(), verbose=False)[0]["test/ap"] <= 1


def test_edgebank_as_a_module(tmp_path) -> None:
    model, source = EdgeBankBaseline(), data()
    first = trainer(tmp_path).test(model, source, verbose=False)[0]
    assert trainer(tmp_path).test(model, source, verbose=False)[0] == first
    assert first["test/ap"] > 0.5
    with pytest.raises(ValueError, match="training-free: septet test"):
        model.loss(torch.zeros(1))
    with pytest.raises(ValueError, match="unknown baseline 'gat'"):
        LinkBaseline("gat")  # type: ignore[arg-type]
