"""The modules on a generated set: every layout end to end, what is refused, search, re-ranking."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from septet.datamodules.reid import ReIDQuadrupleStreams, write_synthetic
from septet.lightning_modules.mscmnet import AGW, MSCMNet

SMALL = {"image_size": (96, 48), "trunk": "micro", "lr": 0.03, "base_factor": 1.0}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {k: write_synthetic(tmp_path_factory.mktemp(k), k) for k in ("sysu", "regdb", "llcm")}


def data(roots, dataset="sysu", **options):
    defaults = {"image_size": (96, 48), "p": 3, "k": 2, "workers": 0, "eval_batch": 128}
    return ReIDQuadrupleStreams(str(roots[dataset]), dataset, **(defaults | options))


def trainer(folder, **options):
    defaults = {
        "max_steps": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "default_root_dir": str(folder),
    }  # fmt: skip
    return pl.Trainer(**(defaults | options))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*logging interval.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
        yield


@pytest.mark.parametrize(
    ("dataset", "classes", "options"),
    [
        ("sysu", 12, {"mode": "indoor"}),
        ("regdb", 9, {"direction": "visible_to_infrared"}),
        ("llcm", 12, {"direction": "infrared_to_visible"}),
    ],
)
def test_three_layouts_end_to_end(roots, tmp_path, dataset, classes, options):
    source = data(roots, dataset, **options)
    module = MSCMNet(classes, residual=True, rerank={"k1": 4, "k2": 2}, **SMALL)
    runner = trainer(tmp_path, max_steps=-1, max_epochs=1, limit_train_batches=2)
    runner.fit(module, source)
    assert 0 <= float(runner.callback_metrics["val/rank1"]) <= 1
    found = runner.test(module, source, verbose=False)[0]
    assert {"test/rank1", "test/mAP", "test/mINP", "test/pool/rank1", "test/rerank/rank1"} <= set(found)
    assert ("test/all_10shot/mAP" in found) == (dataset == "sysu")
    assert (tmp_path / "media/ranked_sheet.png").is_file()
    fields = module.record_fields()
    assert fields["protocol"]["rerank"] is True
    assert fields["protocol"]["selection"] == "val"


def test_agw_and_every_triplet_train(roots, tmp_path):
    for triplet in ("wrt", "batch_hard", "hetero_center", "none"):
        module = AGW(12, triplet=triplet, **SMALL)
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, data(roots))
    with pytest.raises(ValueError, match="four streams"):
        AGW(12, triplet="qct", **SMALL)


def test_every_trainable_parameter_gets_a_gradient():
    torch.manual_seed(0)
    for module in (MSCMNet(6, **SMALL), MSCMNet(6, residual=True, mimb=False, **SMALL)):
        module.configure_model()
        x = torch.randn(4, 4, 3, 96, 48)
        pool, logits = module.net(*x)
        (pool.square().mean() + logits.square().mean()).backward()
        lacking = [n for n, p in module.net.named_parameters() if p.requires_grad and p.grad is None]
        assert lacking == []


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_one_image_per_identity_trains_with_finite_gradients(roots, tmp_path, alpha):
    module = MSCMNet(12, residual=True, alpha=alpha, **SMALL)
    seen = []
    module.on_after_backward = lambda: seen.extend(
        bool(p.grad.isfinite().all()) for p in module.net.parameters() if p.requires_grad
    )
    trainer(tmp_path, limit_val_batches=0).fit(module, data(roots, k=1))
    assert len(seen) > 100
    assert all(seen)


def test_the_distributed_sampler_of_lightning_is_refused(roots):
    source = data(roots)
    connector = SimpleNamespace(use_distributed_sampler=True)
    source.trainer = SimpleNamespace(world_size=2, fast_dev_run=False, _accelerator_connector=connector)
    with pytest.raises(ValueError, match=r"set trainer\.use_distributed_sampler=false"):
        source.setup("fit")


def test_search_in_two_folders(roots, tmp_path):
    source = data(roots, predict_query=str(roots["sysu"] / "cam3/0001"), predict_gallery=str(roots["sysu"] / "cam4"))
    module = MSCMNet(12, residual=True, **SMALL)
    rows = [row for batch in trainer(tmp_path).predict(module, source) for row in batch]
    assert {r["rank"] for r in rows} == set(range(1, 11))
    assert all(Path(r["gallery"]).is_file() and Path(r["query"]).is_file() for r in rows)
    assert all("cam4" in r["gallery"] and "cam3/0001" in r["query"] for r in rows)
    first = [r["score"] for r in rows if r["query"] == rows[0]["query"]]
    assert first == sorted(first, reverse=True)
    assert (tmp_path / "index.npz").is_file()


def test_a_checkpoint_of_another_trial_is_refused(roots, tmp_path):
    runner = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    runner.fit(MSCMNet(9, **SMALL), data(roots, "regdb", trial=1))
    runner.save_checkpoint(tmp_path / "one.ckpt")
    module = MSCMNet(9, **SMALL)
    with pytest.raises(ValueError, match="trained on trial 1, the data are trial 2"):
        trainer(tmp_path).test(
            module, data(roots, "regdb", trial=2), ckpt_path=str(tmp_path / "one.ckpt"), weights_only=True
        )


def test_bad_settings(roots, tmp_path):
    with pytest.raises(ValueError, match=r"set model\.num_classes=12"):
        trainer(tmp_path).fit(MSCMNet(5, **SMALL), data(roots))
    with pytest.raises(ValueError, match="image_size"):
        trainer(tmp_path).fit(MSCMNet(12, **SMALL), data(roots, image_size=(64, 48)))
    with pytest.raises(ValueError, match="limit_val_batches=1 of"):
        trainer(tmp_path, limit_val_batches=1).fit(MSCMNet(12, **SMALL), data(roots, eval_batch=8))
    for options, word in (
        ({"triplet": "quad"}, "unknown triplet"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"interval": "year"}, "unknown interval"),
        ({"image_size": (100, 48)}, "multiples of 16"),
    ):
        with pytest.raises(ValueError, match=word):
            MSCMNet(12, **(SMALL | options))
    module = MSCMNet(12, **(SMALL | {"weights": "resnet50.pth"}))
    with pytest.raises((ValueError, FileNotFoundError)):
        module.configure_model()
