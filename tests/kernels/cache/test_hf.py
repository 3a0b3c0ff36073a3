import pytest
import torch

from septet.kernels.cache.hf import check_model, compressed_cache
from septet.kernels.policies import CAKE, AdaKV, DuoAttention, FullCache, SnapKV
from septet.lightning_modules.cake.generation import generate
from septet.lightning_modules.cake.model import CausalLM
from septet.lightning_modules.cake.pretrained import config_from_hf

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def build(family, **extra):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **extra)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    ours = CausalLM(config_from_hf(config)).eval()
    ours.load_hf_state_dict(model.state_dict())
    return model, ours


def batch():
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.zeros(3, 100, dtype=torch.long), torch.zeros(3, 100, dtype=torch.long)
    for b, count in enumerate((80, 45, 100)):
        ids[b, 100 - count :] = torch.randint(2, 97, (count,), generator=generator)
        mask[b, 100 - count :] = 1
    return ids, mask


FAMILIES = [
    ("Llama", {}),
    ("Llama", {"rope_scaling": LLAMA31}),
    ("Mistral", {"sliding_window": None}),
    ("Qwen2", {}),
]


@pytest.mark.parametrize(("family", "extra"), FAMILIES)
def test_generate_gives_our_tokens_for_a_padded_batch(family, extra):
    model, ours = build(family, **extra)
    ids, mask = batch()
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=30, do_sample=False)[:, 100:].tolist()
    for policy in (FullCache(), CAKE(32, window=8), SnapKV(32, 8), AdaKV(32, 8)):
        cache = compressed_cache(model, policy)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=50, do_sample=False, past_key_values=cache)
        mine = generate(ours, ids, ours.new_cache(policy, 3), 50, attention_mask=mask)
        assert out[:, 100:].tolist() == mine
        assert cache.get_seq_length() == 149
        assert cache.seen_tokens.tolist() == [129, 94, 149]
        physical = cache.physical_length(0)
        assert cache.get_mask_sizes(1) == (physical + 1, 149 - physical)
        if isinstance(policy, FullCache):
            assert [row[:30] for row in mine] == plain
        else:
            assert cache.memory_bytes() < 0.9 * 3 * 2 * (129 + 94 + 149) * 2 * 8 * 4


def test_logits_equal_transformers():
    model, ours = build("Llama")
    ids, mask = batch()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        truth = model(ids, attention_mask=mask, position_ids=positions).logits
        mine = ours(ids, cache=ours.new_cache(FullCache(), 3), attention_mask=mask)
    error = ((truth - mine).abs() / truth.abs().clamp(min=1))[mask.bool()].max()
    assert error < 1e-4


def test_second_prompt_on_a_fresh_cache_and_calls_without_cache():
    model, _ = build("Qwen2")
    ids = torch.randint(2, 97, (1, 90), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    runs = [
        model.generate(ids, past_key_values=compressed_cache(model, CAKE(32, window=8)), **options).tolist()
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    with torch.no_grad():
        bare = model(ids, use_cache=False).logits
        model.set_attn_implementation("sdpa")
        torch.testing.assert_close(bare, model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def test_refusals():
    model, _ = build("Llama")
    ids, mask = batch()
    cache = compressed_cache(model, SnapKV(32, 8))
    with pytest.raises(ValueError, match="padding must be on the left"):
        model(ids.flip(1), attention_mask=mask.flip(1), past_key_values=cache)
    with pytest.raises(ValueError, match="num_beams=1"):
        cache.reorder_cache(torch.tensor([0]))
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(3)
    with pytest.raises(ValueError, match="sliding-window layers"):
        check_model(transformers.MistralConfig(**SIZES, sliding_window=64))
    with pytest.raises(ValueError, match="'gpt2' is not supported"):
        check_model(transformers.GPT2Config())


def test_a_cache_serves_one_generate_call():
    model, _ = build("Llama")
    ids = torch.randint(2, 97, (1, 90), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 4, "do_sample": False, "past_key_values": compressed_cache(model, CAKE(32, window=8))}
    first = model.generate(ids, **options).tolist()
    with pytest.raises(ValueError, match="it serves one: make a new one with compressed_cache"):
        model.generate(ids, **options)
    options["past_key_values"].reset()
    assert model.generate(ids, **options).tolist() == first


def test_policies_are_checked_before_the_model_is_switched():
    model, _ = build("Llama")
    before = model.config._attn_implementation
    for wrong in ("cake", {"name": "cake"}, ["cake", "full"]):
        with pytest.raises(TypeError, match=r"make it with build_policy\("):
            compressed_cache(model, wrong)
    with pytest.raises(ValueError, match="the head table has 2 layers, the model 3"):
        compressed_cache(model, DuoAttention([[1, 0]] * 2))
    assert model.config._attn_implementation == before


class NoGroups:
    model_type = "llama"
    num_hidden_layers = 2
    num_attention_heads = 4


def test_a_model_without_grouped_sizes():
    with pytest.raises(ValueError, match="lacks num_key_value_heads"):
        check_model(NoGroups())
