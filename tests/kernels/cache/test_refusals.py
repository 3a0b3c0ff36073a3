"""What the caches and their bridge to transformers refuse, each with an input that triggers only that branch."""

import sys
from types import SimpleNamespace

import pytest
import torch

from septet.kernels.cache import CompressedCache, RaggedLayer, RecordedPrompt
from septet.kernels.cache import hf as bridge
from septet.kernels.cache.hf import attention_forward, check_model, compressed_cache, left_pads
from septet.kernels.policies import DuoAttention, FullCache, HeadKV, SnapKV


def prefilled(length=6):
    cache, key = CompressedCache(FullCache(), 1, 2), torch.randn(1, 2, length, 4)
    cache.attention(0, torch.randn(1, 4, length, 4), key, key)
    return cache


def test_caches_are_joined_before_decoding():
    cache, new = prefilled(), torch.randn(1, 2, 1, 4)
    cache.attention(0, torch.randn(1, 4, 1, 4), new, new)
    with pytest.raises(ValueError, match="concatenate before decoding"):
        CompressedCache.concatenate([prefilled(), cache])
    with pytest.raises(ValueError, match="only fresh caches of the same model"):
        CompressedCache.concatenate([prefilled(), CompressedCache(FullCache(), 2, 2)])


def test_a_recorded_prompt_takes_one_prompt():
    record, q, k = RecordedPrompt([FullCache()], 1, 2), torch.randn(1, 4, 6, 4), torch.randn(1, 2, 6, 4)
    record.attention(0, q, k, k)
    with pytest.raises(ValueError, match="takes no further tokens"):
        record.attention(0, q, k, k)
    with pytest.raises(ValueError, match="takes no further tokens"):
        record.next_positions(1)


@pytest.mark.parametrize("table", [[[1] * 4] * 2, [[1] * 2] * 3])
def test_head_tables_of_another_model(table):
    """Refused when the cache is made, not only by a prompt that is long enough to be trimmed."""
    for policy in (DuoAttention(table), HeadKV(table)):
        with pytest.raises(ValueError, match=r"the head table has (4|3) (heads|layers), the model 2"):
            CompressedCache(policy, 2, 2)


def test_names_are_no_policies():
    for wrong in ("cake", {"name": "cake"}, [FullCache(), "cake"]):
        with pytest.raises(TypeError, match=r"is no policy but may name one; make it with build_policy\("):
            CompressedCache(wrong, 1, 2, 2)


def test_positions_of_the_wrong_shape():
    parts = [[torch.randn(3, 4)]]
    with pytest.raises(ValueError, match=r"sequence 0, head 0: \(2,\) positions for 3 keys"):
        RaggedLayer(parts, parts, [[torch.arange(2)]])


def test_masks_of_another_prompt():
    with pytest.raises(ValueError, match="mask has 9 columns for 6 tokens; start from an empty cache"):
        left_pads(torch.ones(1, 9), 6)
    with pytest.raises(ValueError, match=r"set tokenizer.padding_side = 'left'"):
        left_pads(torch.tensor([[1, 1, 0]]), 3)
    for hole in ([1, 0, 1], [0, 1, 0, 1, 1]):
        with pytest.raises(ValueError, match="hides tokens inside a prompt; only padding on the left can be masked"):
            left_pads(torch.tensor([hole]), len(hole))
    with pytest.raises(ValueError, match=r"set tokenizer.padding_side = 'left'"):
        left_pads(torch.zeros(1, 3), 3)
    assert left_pads(torch.ones(2, 3), 3) is None
    assert left_pads(torch.tensor([[0, 1, 1], [1, 1, 1]]), 3) == [1, 0]
    assert left_pads(torch.ones(1, 1, 3, 3), 3) is None


def test_dropout_while_training():
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"attention dropout 0.1 is not supported; call model.eval\(\)"):
        attention_forward(None, q, q, q, None, dropout=0.1)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"cake needs the kv extra: pip install 'septet\[kv\]'"):
        bridge._transformers()


SHAPE = {"model_type": "qwen2", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("extra", "sliding"),
    [
        ({}, False),
        ({"sliding_window": 64}, True),
        ({"sliding_window": 64, "use_sliding_window": False}, False),
        ({"sliding_window": 64, "layer_types": ["full_attention", "full_attention"]}, False),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, True),
    ],
)
def test_sliding_windows(extra, sliding):
    """Refused by the bridge and by our own loader alike, unless no layer really slides."""
    from septet.lightning_modules.cake.pretrained import sliding_layers

    config = SimpleNamespace(**SHAPE, **extra)
    assert bool(sliding_layers(config)) == sliding
    if sliding:
        with pytest.raises(ValueError, match="set sliding_window=None"):
            check_model(config)
    else:
        check_model(config)


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads"])
def test_configs_without_a_size(name):
    with pytest.raises(ValueError, match=f"lacks {name}"):
        check_model(SimpleNamespace(**{key: value for key, value in SHAPE.items() if key != name}))


def test_a_cache_without_a_prompt():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 11}
    config = transformers.LlamaConfig(
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, **sizes
    )
    cache = compressed_cache(transformers.LlamaForCausalLM(config), SnapKV(16, 4))
    with pytest.raises(AttributeError, match="no prompt was read yet"):
        cache.memory_bytes()
    assert cache.physical_length(0) == 0
    assert not cache.is_initialized
