import pytest
import torch

from septet.kernels.cache import CompressedCache, RecordedPrompt, Shard
from septet.kernels.policies import (
    CAKE,
    H2O,
    TOVA,
    AdaKV,
    FullCache,
    HeadKV,
    KNorm,
    PyramidKV,
    Random,
    SnapKV,
    StreamingLLM,
)

LAYERS, HEADS, KV, DIM = 3, 4, 2, 8
POLICIES = [
    FullCache(),
    CAKE(20, window=8),
    CAKE(20, window=8, cascade=False, decode="none"),
    CAKE(20, window=8, decode="official"),
    SnapKV(20, 8),
    PyramidKV(20, 8),
    H2O(20, 8),
    AdaKV(20, 8),
    TOVA(20),
    StreamingLLM(20),
    KNorm(20, 8),
    Random(20, 8),
    HeadKV([[3, 40], [0, 9], [60, 2]], window=8),
]


def stream(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(LAYERS, batch, HEADS, length, DIM, generator=generator) * 2
    k = torch.randn(LAYERS, batch, KV, length, DIM, generator=generator)
    return q, k, torch.randn(LAYERS, batch, KV, length, DIM, generator=generator)


def play(cache, q, k, v, prompt, pads=None):
    """Prompt, then token by token; outputs of the last layer ``(B, H, steps + 1, D)``."""
    outs = [
        cache.attention(i, q[i, :, :, :prompt], k[i, :, :, :prompt], v[i, :, :, :prompt], pads=pads)
        for i in range(LAYERS)
    ]
    last = [outs[-1][:, :, -1:]]
    for t in range(prompt, q.shape[3]):
        for i in range(LAYERS):
            out = cache.attention(i, *(x[i, :, :, t : t + 1] for x in (q, k, v)))
        last.append(out)
    return torch.cat(last, 2)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.label}-{p.decode_rule}")
def test_a_padded_batch_equals_its_rows_alone(policy):
    prompt, pads = 60, [0, 25, 41, 59]
    q, k, v = stream(4, prompt + 90)
    together = CompressedCache(policy, LAYERS, KV, 4)
    out = play(together, q, k, v, prompt, pads)
    for b, pad in enumerate(pads):
        alone = CompressedCache(policy, LAYERS, KV)
        single = play(alone, *(x[:, b : b + 1, :, pad:] for x in (q, k, v)), prompt - pad)
        torch.testing.assert_close(out[b : b + 1], single, rtol=1e-4, atol=1e-5)
        for layer in range(LAYERS):
            for head in range(KV):
                assert together.positions(layer, b, head).tolist() == alone.positions(layer, 0, head).tolist()
        assert int(together.seen_tokens[b]) == prompt - pad + 90


@pytest.mark.parametrize("cascade", [True, False])
def test_peak_and_live_bytes(cascade):
    length, capacity = 200, 24
    q, k, v = stream(1, length)
    cache = CompressedCache(CAKE(capacity, window=8, cascade=cascade), LAYERS, KV)
    play(cache, q, k, v, length)
    per_token = KV * 2 * DIM * 4
    limit = capacity * LAYERS + length if cascade else length * LAYERS
    assert cache.peak_bytes <= limit * per_token
    assert cache.memory_bytes() == capacity * LAYERS * per_token
    assert sum(int(cache.lengths(i).sum()) for i in range(LAYERS)) == capacity * LAYERS * KV
    if not cascade:
        assert cache.peak_bytes == length * LAYERS * per_token


def test_stages_of_the_cascade_fall():
    q, k, v = stream(1, 200)
    cache = CompressedCache(CAKE(24, window=8, tau1=0.3, tau2=0.3), LAYERS, KV)
    play(cache, q, k, v, 200)
    for before, after in zip(cache.stages[0][:-1], cache.stages[0][1:], strict=True):
        assert all(now <= then for now, then in zip(after[1], before[1], strict=False))
    assert sum(cache.stages[0][-1][0]) == 16 * LAYERS
    assert cache.preferences[0] is not None


def test_window_decode_keeps_the_size_within_the_slack():
    q, k, v = stream(1, 60 + 150)
    cache = CompressedCache(CAKE(20, window=8, decode_slack=5), LAYERS, KV)
    outs = [cache.attention(i, *(x[i, :, :, :60] for x in (q, k, v))) for i in range(LAYERS)]
    start = [int(cache.lengths(i).max()) for i in range(LAYERS)]
    for t in range(60, 210):
        for i in range(LAYERS):
            cache.attention(i, *(x[i, :, :, t : t + 1] for x in (q, k, v)))
            assert start[i] <= int(cache.lengths(i).max()) <= start[i] + 5
            assert cache.positions(i, 0, 0).tolist() == sorted(cache.positions(i, 0, 0).tolist())
            assert cache.positions(i, 0, 0)[-8:].tolist() == list(range(t - 7, t + 1))
    assert len(outs) == LAYERS
    assert cache._live == cache.memory_bytes()


def test_full_cache_is_plain_attention_for_blocks_too():
    q, k, v = stream(2, 50)
    cache = CompressedCache(FullCache(), LAYERS, KV, 2)
    parts = [(0, 30), (30, 34), (34, 35), (35, 50)]
    for i in range(LAYERS):
        out = torch.cat([cache.attention(i, *(x[i, :, :, a:b] for x in (q, k, v))) for a, b in parts], 2)
        whole = torch.nn.functional.scaled_dot_product_attention(q[i], k[i], v[i], is_causal=True, enable_gqa=True)
        torch.testing.assert_close(out, whole, rtol=1e-4, atol=1e-5)


def test_blocks_equal_single_tokens_after_eviction():
    q, k, v = stream(1, 70)
    caches = [CompressedCache(AdaKV(20, 8), LAYERS, KV) for _ in range(2)]
    for cache in caches:
        cache.attention(0, *(x[0, :, :, :60] for x in (q, k, v)))
    block = caches[0].attention(0, *(x[0, :, :, 60:] for x in (q, k, v)))
    steps = torch.cat([caches[1].attention(0, *(x[0, :, :, t : t + 1] for x in (q, k, v))) for t in range(60, 70)], 2)
    torch.testing.assert_close(block, steps, rtol=1e-4, atol=1e-5)


def test_a_recorded_prompt_serves_all_policies_and_their_batch():
    q, k, v = stream(1, 60 + 5)
    record = RecordedPrompt(POLICIES, LAYERS, KV)
    for i in range(LAYERS):
        record.attention(i, *(x[i, :, :, :60] for x in (q, k, v)))
    fresh = [record.compress(policy) for policy in POLICIES]
    joined = CompressedCache.concatenate(fresh)
    for b, policy in enumerate(POLICIES):
        alone = CompressedCache(policy, LAYERS, KV)
        single = play(alone, q, k, v, 60)
        assert fresh[b].peak_bytes >= fresh[b].memory_bytes()
        out = None
        again = record.compress(policy)
        for t in range(60, 65):
            for i in range(LAYERS):
                out = again.attention(i, *(x[i, :, :, t : t + 1] for x in (q, k, v)))
        torch.testing.assert_close(out, single[:, :, -1:], rtol=1e-4, atol=1e-5)
    for t in range(60, 65):
        for i in range(LAYERS):
            out = joined.attention(i, *(x[i, :, :, t : t + 1].expand(len(POLICIES), -1, -1, -1) for x in (q, k, v)))
    for b, policy in enumerate(POLICIES):
        single = play(CompressedCache(policy, LAYERS, KV), q, k, v, 60)
        torch.testing.assert_close(out[b : b + 1], single[:, :, -1:], rtol=1e-4, atol=1e-5)
    recalls = [record.attention_recall(cache) for cache in fresh]
    assert recalls[0] == pytest.approx(1.0, abs=1e-5)
    assert all(0 < r <= 1 + 1e-5 for r in recalls)


class Halves(Shard):
    """Two shards of one process: what the other half contributed is handed in."""

    def __init__(self, heads, rows, other_totals, whole):
        super().__init__([heads] * LAYERS, KV, None if rows is None else [rows] * LAYERS)
        self.other, self.whole_scores, self.calls = other_totals, whole, 0

    def total(self, statistics):
        self.calls += 1
        return statistics if self.other is None else statistics + self.other[self.calls - 1]

    def gather(self, scores, layer):
        return [None if s is None else self.whole_scores[layer][b] for b, s in enumerate(scores)]


def test_head_shards_reproduce_the_whole_cache():
    """Each head alone, its statistics completed by the other, keeps what the whole cache keeps."""
    q, k, v = stream(1, 80)
    policy = CAKE(24, window=8, decode="none")
    whole = CompressedCache(policy, LAYERS, KV)
    play(whole, q, k, v, 80)
    totals = []
    for head in range(KV):
        part = []
        for i in range(LAYERS):
            score = policy.score(q[i, :, 2 * head : 2 * head + 2, -8:], k[i, :, head : head + 1], i, [head])
            part.append(torch.tensor([[score.dispersion, score.shift]], dtype=torch.float64))
        totals.append(part)
    for head in range(KV):
        shard = Halves([head], None, totals[1 - head], None)
        cache = CompressedCache(policy, LAYERS, KV, shard=shard)
        play(cache, q[:, :, 2 * head : 2 * head + 2], k[:, :, head : head + 1], v[:, :, head : head + 1], 80)
        assert shard.calls == LAYERS
        for i in range(LAYERS):
            assert cache.positions(i, 0, 0).tolist() == whole.positions(i, 0, head).tolist()


def test_row_shards_leave_the_other_rows_zero():
    q, k, v = stream(3, 70)
    shard = Halves([0, 1], [(0, 2), (2, 3)], None, None)
    cache = CompressedCache(SnapKV(20, 8), LAYERS, KV, 3, shard=shard)
    out = play(cache, q, k, v, 60)
    assert cache.lengths(0).tolist() == [[30, 0], [30, 0], [0, 30]]
    assert out[2, :2].abs().max() == 0
    assert out[0, 2:].abs().max() == 0
    whole = play(CompressedCache(SnapKV(20, 8), LAYERS, KV, 3), q, k, v, 60)
    torch.testing.assert_close(out[:2, :2], whole[:2, :2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[2:, 2:], whole[2:, 2:], rtol=1e-4, atol=1e-5)


def test_a_shard_without_heads_takes_part_in_the_sums():
    q, k, v = stream(2, 70)
    shard = Halves([], None, None, None)
    cache = CompressedCache(CAKE(20, window=8), LAYERS, KV, 2, shard=shard)
    out = play(cache, q[:, :, :0], k[:, :, :0], v[:, :, :0], 60)
    assert out.shape == (2, 0, 11, DIM)
    assert shard.calls == LAYERS
    assert cache.memory_bytes() == 0
    assert cache.seen_tokens.tolist() == [70, 70]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CompressedCache(FullCache(), 2, 2, 0), "batch of 0"),
        (lambda: CompressedCache([FullCache()], 2, 2, 2), "1 policies for a batch of 2"),
        (lambda: CompressedCache(CAKE(64, compat="official"), 2, 2, 2), "batch_size 1"),
        (lambda: CompressedCache(FullCache(), 2, 2).lengths(0), "holds nothing yet"),
        (lambda: CompressedCache(FullCache(), 3, KV).prefill(1, *(x[0] for x in stream(1, 4))), "layers in order"),
        (lambda: CompressedCache(FullCache(), 3, KV).prefill(0, *(x[0] for x in stream(2, 4))), "expected batch 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
