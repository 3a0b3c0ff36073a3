"""CNEN under the Trainer: life cycle, resume, predictions, bad settings."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from septet.datamodules.temporal_graph import StructureSpec, TemporalGraphEvents, online
from septet.lightning_modules.cne_n import CNEN

NET = {"node_dim": 16, "edge_dim": 16, "time_dim": 10, "channel_dim": 6}


def data(**kwargs) -> TemporalGraphEvents:
    return TemporalGraphEvents(**{"generator": {"num_nodes": 60, "num_events": 600}, "batch_size": 50, **kwargs})


def trainer(path, **kwargs) -> pl.Trainer:
    settings = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        **kwargs,
    }
    return pl.Trainer(default_root_dir=path, **settings)


def weights(model: CNEN) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fit(path, model: CNEN, source: TemporalGraphEvents | None = None, **kwargs) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    t = trainer(path, **kwargs)
    t.fit(model, source or data())
    return t


def test_fit_test_predict(tmp_path) -> None:
    model = CNEN(net=NET, lr=1e-2)
    t = fit(tmp_path, model, max_epochs=2)
    assert len(model.history) == 2
    source = data(num_negatives=12)
    result = t.test(model, source, verbose=False)[0]
    assert set(result) >= {"test/ap", "test/auc", "test/new_ap", "test/ap_global", "test/mrr", "test/hits10"}
    assert result["test/ap"] > 1 / 13
    media = {p.stem for p in (tmp_path / "media").glob("*.png")}
    assert media >= {"ap_auc_by_epoch", "co_neighbour_counts", "table_occupancy", "events_over_time"}
    rows = [row for batch in t.predict(model, data()) for row in batch]
    assert len(rows) == len(source.splits.test)
    assert set(rows[0]) == {"u", "i", "ts", "score"}
    assert all(0 <= row["score"] <= 1 for row in rows)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("features", ["cached", "online"])
def test_resume_inside_an_epoch_equals_an_unbroken_run(tmp_path, monkeypatch, features: str) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", 100)
    whole = CNEN(net=NET)
    fit(tmp_path / "a", whole, max_epochs=3)
    saved = ModelCheckpoint(tmp_path / "b", filename="mid", every_n_train_steps=12, save_top_k=-1)
    settings = {"max_epochs": 3, "max_steps": 12, "callbacks": [saved], "enable_checkpointing": True}
    t = fit(tmp_path / "b", CNEN(net=NET), data(features=features), **settings)
    assert 12 % len(t.train_dataloader) != 0
    middle = tmp_path / "b" / "mid.ckpt"
    checkpoint = torch.load(middle, weights_only=True)
    assert "table" not in str(list(checkpoint["state_dict"]))
    resumed = CNEN(net=NET)
    pl.seed_everything(7, verbose=False)
    again = data(features=features)
    trainer(tmp_path / "c", max_epochs=3).fit(resumed, again, ckpt_path=middle, weights_only=True)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)


def test_validation_does_not_depend_on_preceding_epochs(tmp_path) -> None:
    model = CNEN(net=NET)
    t, source = trainer(tmp_path, max_epochs=1), data()
    first = t.validate(model, source, verbose=False)[0]
    for epoch in range(2):
        source.train_links(epoch)
    t.test(model, source, verbose=False)
    source._links.clear()
    assert t.validate(model, source, verbose=False)[0] == first


def test_released_preset_trains_and_warns(tmp_path) -> None:
    model = CNEN(preset="released", net=NET)
    source = data(structure=StructureSpec.released())
    with pytest.warns(UserWarning, match="preset 'released' as published"):
        trainer(tmp_path, max_epochs=1).fit(model, source)
    with pytest.warns(UserWarning, match="beside a data half 'fixed'"):
        trainer(tmp_path, max_epochs=1).fit(CNEN(preset="released", net=NET), data())


def test_ablations_see_less(tmp_path) -> None:
    source = data()
    source.setup()
    batch = next(iter(source.train_dataloader()))
    torch.manual_seed(0)
    scores = {}
    full = CNEN(net=NET)
    full.configure_model()
    for structure in ("full", "indicator", "none"):
        model = CNEN(net=NET, structure=structure)
        model.configure_model()
        model.eval()
        model.load_state_dict(full.state_dict())
        scores[structure] = model.score(batch).detach()
        batch_of = batch.src_feat.clone()
        batch.src_feat[..., :4] += 3
        blind = torch.equal(model.score(batch).detach(), scores[structure])
        assert blind == (structure != "full")
        batch.src_feat.copy_(batch_of)


def test_score_does_not_depend_on_the_batch() -> None:
    source = data(batch_size=37)
    source.setup()
    links = source.evaluation_links("test")
    model = CNEN(net=NET)
    model.configure_model()
    model.eval()
    whole = model.score(links.batch(torch.arange(len(links.time))))
    some = torch.tensor([5, 3, 40])
    torch.testing.assert_close(model.score(links.batch(some)), whole[some], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"preset": "official"}, "unknown preset 'official'"),
        ({"structure": "half"}, "unknown structure 'half'"),
        ({"lr": 0.0}, "lr=0.0 is not a finite number above 0"),
        ({"net": {"pool": "all"}}, "fixed by the preset"),
    ],
)
def test_bad_settings(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNEN(**kwargs)


def test_needs_structure(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"give data\.init_args\.structure"):
        trainer(tmp_path, max_epochs=1).fit(CNEN(net=NET), data(structure=None))
