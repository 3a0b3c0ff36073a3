import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.attention import append_attention, decode_attention, prefill_attention
from septet.kernels.cache import RaggedLayer


def layer_of(lengths, dim=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return [[torch.randn(n, dim, generator=generator).to(dtype) for n in row] for row in lengths]

    return RaggedLayer(draw(), draw())


def truth(query, layer):
    return decode_attention(query.double(), layer, backend="reference")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 300), min_size=2, max_size=2), min_size=1, max_size=3),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["auto", "sdpa", "loop", "reference"]),
    st.integers(0, 2**31),
)
def test_backends_against_float64(lengths, group, backend, seed):
    layer = layer_of(lengths, seed=seed)
    query = torch.randn(len(lengths), 2 * group, 1, 16, generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        out = decode_attention(query, layer, backend=backend)
        torch.testing.assert_close(out.double(), truth(query, layer), rtol=1e-5, atol=1e-5)
        layer.append(torch.randn(len(lengths), 2, 3, 16), torch.randn(len(lengths), 2, 3, 16))
        layer.compact([[torch.arange(0, layer.length(b, 0), 2), None] for b in range(len(lengths))])


@pytest.mark.parametrize("backend", ["auto", "sdpa", "loop"])
@pytest.mark.parametrize("skew", [1, 16])
def test_long_and_skewed(backend, skew):
    layer = layer_of([[10_000, 10_000 // skew]], dim=32)
    query = torch.randn(1, 8, 1, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        decode_attention(query, layer, backend=backend).double(), truth(query, layer), rtol=1e-5, atol=1e-5
    )
    half = layer_of([[10_000, 10_000 // skew]], dim=32, dtype=torch.bfloat16)
    out = decode_attention(query.bfloat16(), half, backend=backend)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), truth(query.bfloat16(), half), rtol=2e-2, atol=2e-2)


def test_scale_is_used():
    layer = layer_of([[5, 9]])
    query = torch.randn(1, 2, 1, 16)
    for backend in ("reference", "sdpa", "loop"):
        flat = decode_attention(query, layer, scale=0.0, backend=backend)
        torch.testing.assert_close(flat[0, 1, 0], layer.values(0, 1).mean(0), rtol=1e-5, atol=1e-6)


def test_empty_heads():
    layer = layer_of([[4, 0]])
    query = torch.randn(1, 4, 1, 16)
    with pytest.raises(ValueError, match="a head of the cache is empty"):
        decode_attention(query, layer)
    for backend in ("reference", "sdpa", "loop"):
        out = decode_attention(query, layer, backend=backend, allow_empty=True)
        assert out[:, 2:].abs().max() == 0
        torch.testing.assert_close(out[:, :2], decode_attention(query, layer, backend="loop", allow_empty=True)[:, :2])


def test_appended_rows_are_causal():
    layer = layer_of([[7, 20], [5, 5]])
    query = torch.randn(2, 6, 4, 16)
    out = append_attention(query, layer)
    from septet.kernels.attention.reference import ragged_attention_reference

    torch.testing.assert_close(out.double(), ragged_attention_reference(query.double(), layer), rtol=1e-5, atol=1e-5)


def test_prefill_of_a_padded_chunk():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 12, 8, generator=generator) for h in (4, 2, 2))
    whole = prefill_attention(q, k, v, pads=[0, 5])
    assert whole[1, :, :5].abs().max() == 0
    alone = prefill_attention(q[1:, :, 5:], k[1:, :, 5:], v[1:, :, 5:])
    torch.testing.assert_close(whole[1:, :, 5:], alone)
    for start, stop in ((0, 4), (4, 12)):
        part = prefill_attention(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], pads=[0, 5])
        torch.testing.assert_close(part, whole[:, :, start:stop], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "backend", "message"),
    [
        (torch.randn(1, 3, 1, 16), "auto", "do not divide"),
        (torch.randn(1, 4, 2, 16), "auto", "takes one row"),
        (torch.randn(2, 4, 1, 16), "auto", "does not fit a cache of batch 1"),
        (torch.randn(1, 4, 1, 8), "auto", "head size 16"),
        (torch.randn(1, 4, 1, 16), "cudnn", "unknown backend 'cudnn'"),
        (torch.randn(1, 4, 1, 16), "native", "not built"),
        (torch.randn(1, 4, 1, 16), "flash", "needs CUDA and half precision"),
        (torch.randn(1, 4, 1, 16), "triton", "needs CUDA"),
    ],
)
def test_refuses(query, backend, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        decode_attention(query, layer_of([[4, 6]]), backend=backend)


def test_the_flash_package_is_optional():
    from importlib.util import find_spec

    if find_spec("flash_attn"):
        pytest.skip("flash-attn is installed here")
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        decode_attention(torch.randn(1, 4, 1, 16), layer_of([[4, 6]]), backend="flash_attn")


def test_the_flash_package_needs_a_gpu(monkeypatch):
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace())
    with pytest.raises(ValueError, match=r"'flash_attn' needs CUDA and half precision, not torch.float32 on cpu"):
        decode_attention(torch.randn(1, 4, 1, 16), layer_of([[4, 6]]), backend="flash_attn")


def test_triton_takes_up_to_64_query_heads(monkeypatch):
    pytest.importorskip("triton")
    from septet.kernels.attention import triton as kernels

    monkeypatch.setattr(kernels, "_interpreted", lambda: True)
    with pytest.raises(ValueError, match="up to 64 query heads per KV head, not 65"):
        kernels.attend_triton(torch.randn(1, 130, 1, 16), layer_of([[4, 6]]))


@pytest.mark.parametrize(
    ("lengths", "dtype", "cuda", "triton", "chosen"),
    [
        ([[4, 4], [4, 4]], torch.float32, False, True, "sdpa"),
        ([[4, 6]], torch.float32, False, True, "loop"),
        ([[4, 4], [4, 4]], torch.bfloat16, True, True, "triton"),
        ([[4, 4], [4, 4]], torch.float32, True, True, "sdpa"),
        ([[4, 4]], torch.bfloat16, True, True, "sdpa"),
        ([[4, 6]], torch.bfloat16, True, True, "triton"),
        ([[4, 6]], torch.float32, True, True, "triton"),
        ([[4, 6]], torch.bfloat16, True, False, "sdpa"),
    ],
)
def test_the_backend_follows_device_lengths_and_type(lengths, dtype, cuda, triton, chosen, monkeypatch):
    from types import SimpleNamespace

    from septet.kernels import attention

    monkeypatch.setattr(attention, "_has_triton", lambda: triton)
    layer = layer_of(lengths, dtype=dtype)
    assert (
        attention._choose(SimpleNamespace(is_cuda=cuda, dtype=dtype, shape=(len(lengths), 4, 1, 16)), layer) == chosen
    )
