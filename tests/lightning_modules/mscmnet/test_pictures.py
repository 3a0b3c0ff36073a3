"""Attention maps, tables, what loggers get, and the settings of speed."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from septet.datamodules.reid import ReIDQuadrupleStreams, write_synthetic
from septet.lightning_modules.mscmnet import AGW, MSCMNet
from septet.lightning_modules.mscmnet.attention import mimb_figure, mimb_maps
from septet.lightning_modules.mscmnet.model import QuadStreamNet
from septet.lightning_modules.mscmnet.tables import Table, page

SMALL = {"image_size": (96, 48), "trunk": "micro"}


def run(module, folder, root, stage="test", **options):
    data = ReIDQuadrupleStreams(str(root), image_size=(96, 48), p=3, k=2, workers=0, eval_batch=128)
    trainer = pl.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=str(folder), **({"logger": False} | options),
    )  # fmt: skip
    result = trainer.test(module, data, verbose=False) if stage == "test" else trainer.fit(module, data)
    return result, trainer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("sysu"), "sysu")


def test_mimb_maps():
    torch.manual_seed(0)
    net = QuadStreamNet(6, (96, 48), trunk="micro", residual=True).train()
    images = torch.randn(2, 3, 96, 48)
    maps = mimb_maps(net, images, "infrared")
    assert net.training
    assert len(maps) == 4
    for stage in maps:
        assert stage.change.shape == (2, 12, 6)
        assert bool((stage.change > 0).all())
        torch.testing.assert_close(stage.weights.sum(1), torch.ones(12))
    stage, x = net.mimb[3], torch.randn(2, 48, 12, 6)
    pattern, z = stage.tokens(x, None)
    values = stage.attn._split(z, 2)
    ours = stage.attn.out_proj((stage.attn.weights(pattern) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours, stage.attn(pattern, z))
    assert mimb_figure(net, images, "visible").axes
    with pytest.raises(ValueError, match="no MIMB"):
        mimb_maps(QuadStreamNet(6, (96, 48), trunk="micro", mimb=False), images, "visible")


def test_page_escapes_file_names():
    text = page([Table("worst_query_files", ["query"], [["<b>.jpg"]])], "all_1shot")
    assert "&lt;b&gt;.jpg" in text
    assert "<h2>worst query files</h2>" in text


class Recorder(DummyLogger):
    """Keeps what it is handed."""

    def __init__(self):
        super().__init__()
        self.images, self.tables = {}, {}

    def log_image(self, key, images):
        self.images[key] = images

    def log_table(self, key, columns, data):
        self.tables[key] = (columns, data)


def test_a_test_run_writes_pictures_and_tables_and_few_metrics(root, tmp_path):
    logger = Recorder()
    found, _ = run(MSCMNet(12, residual=True, rerank={"k1": 4, "k2": 2}, **SMALL), tmp_path, root, logger=logger)
    names = {p.stem for p in (tmp_path / "media").glob("*.png")}
    wanted = {"ranked_sheet", "worst_queries", "per_camera", "distances", "feature_map", "mimb_attention", "tables"}
    assert wanted <= names
    assert {f"media/{n}" for n in wanted} <= set(logger.images)
    columns, rows = logger.tables["media/settings"]
    assert columns[:3] == ["setting", "rank1", "rank1 std"]
    assert [r[0] for r in rows] == ["all_1shot", "all_10shot", "indoor_1shot", "indoor_10shot", "rerank"]
    assert rows[0][1] == pytest.approx(100 * found[0]["test/rank1"], abs=0.01)
    assert logger.tables["media/query_cameras"][0] == ["camera", "queries", "rank-1", "mAP"]
    precisions = [r[2] for r in logger.tables["media/worst_query_files"][1]]
    assert precisions == sorted(precisions)
    assert "indoor_10shot" in (tmp_path / "media/ranking.html").read_text()
    short = {"rank1", "mAP", "mINP"}
    groups = ("pool", "std", "all_10shot", "indoor_1shot", "indoor_10shot", "rerank")
    expected = {f"test/{k}" for k in (*short, "rank5", "rank10", "rank20")} | {
        f"test/{g}/{k}" for g in groups for k in short
    }
    assert set(found[0]) == expected


def test_agw_has_no_attention_picture(root, tmp_path):
    run(AGW(12, **SMALL), tmp_path, root)
    assert (tmp_path / "media/tables.png").is_file()
    assert not (tmp_path / "media/mimb_attention.png").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_offline_wandb_run_holds_pictures_and_tables(root, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="SKIPPED FOR LACK OF the logging extra")
    from lightning.pytorch.loggers import WandbLogger

    for name, value in {"MODE": "offline", "SILENT": "true", "DATA_DIR": "data", "CACHE_DIR": "cache"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / value) if name.endswith("DIR") else value)
    run(MSCMNet(12, residual=True, **SMALL), tmp_path, root, logger=WandbLogger(save_dir=tmp_path, offline=True))
    wandb.finish()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert list(folder.rglob("media/images/media/ranked_sheet*.png"))
    tables = [json.loads(p.read_text()) for p in (tmp_path / "data").rglob("*.table.json")]
    tables += [json.loads(p.read_text()) for p in folder.rglob("*.table.json")]
    assert any("camera" in t["columns"] for t in tables)
    assert any("first match at" in t["columns"] for t in tables)


def test_memory_format_compilation_and_tf32(root, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    torch.manual_seed(0)
    plain = MSCMNet(12, residual=True, **SMALL)
    fast = MSCMNet(12, residual=True, channels_last=True, compile=True, tf32=True, **SMALL)
    for module in (plain, fast):
        module.configure_model()
    assert compiled == ["QuadStreamNet"]
    assert fast.net.classifier.weight.shape == plain.net.classifier.weight.shape
    fast.net.load_state_dict(plain.net.state_dict())
    assert fast.net.trunk.layer3[0].weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(4, 2, 3, 96, 48)
    torch.testing.assert_close(fast.net(*x)[0], plain.net(*x)[0], rtol=1e-4, atol=1e-5)
    seen = []
    monkeypatch.setattr(fast, "on_train_start", lambda: seen.append(torch.get_float32_matmul_precision()))
    genuine, types = fast.metric_loss, []
    monkeypatch.setattr(fast, "metric_loss", lambda x, *rest: (types.append(x.dtype), genuine(x, *rest))[1])
    before = torch.get_float32_matmul_precision()
    run(fast, tmp_path, root, "fit", max_steps=1, limit_val_batches=0)
    assert seen == ["high"]
    assert types == [torch.float64]
    assert torch.get_float32_matmul_precision() == before
    assert fast.record_fields()["model"]["compile"] is True
