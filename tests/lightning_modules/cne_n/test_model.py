"""Embeddings and logits equal the golden values; a score does not depend on its batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.hashing.streams import build, events, load

from septet.kernels.hashing import structure_pass
from septet.lightning_modules.cne_n.model import CNENet, binary_cross_entropy, parameter_count


def network(data: dict, pool: str) -> CNENet:
    return CNENet.from_reference({k[2:]: v for k, v in data.items() if k.startswith("w/")}, pool=pool).eval()


def embed(net: CNENet, data: dict, time, seq, feat):
    """Embedding of sequences with the features of the golden stream."""
    delta = ((time.unsqueeze(-1) - seq.time) * (seq.ids != 0)).float()
    node, edge = data["node_feat"].float()[seq.ids], data["edge_feat"].float()[seq.edge_id]
    return net.embed(node, edge, delta, feat.float(), seq.count)


def column(seq, q: int):
    return type(seq)(*(a[:, q] for a in seq))


@pytest.mark.parametrize("name", ["stream_small.npz", "stream_tiny_m4_l2.npz"])
def test_released_embeddings_and_logits(name: str) -> None:
    data = load(name)
    nodes, _, size, long, length, batches = data["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(src, dst, time, nodes, long=long, short=long // 4, kind="released", padding="node")
    net = network(data, "all")
    asked = torch.stack([dst, data["neg_dst"].long()], 1)
    out = structure_pass(
        memory, index, src, dst, time, src.unsqueeze(1).expand_as(asked), asked,
        length=length, granularity=size, order="phase",
    )  # fmt: skip
    with torch.no_grad():
        for b in range(batches):
            at = slice(b * size, (b + 1) * size)
            for q, sign in enumerate(("pos", "neg")):
                ends = []
                for side, seq, feat in (("src", out.src, out.src_feat), ("dst", out.dst, out.dst_feat)):
                    part = type(seq)(*(a[at, q] for a in seq))
                    ends.append(embed(net, data, time[at], part, feat[at, q]))
                    torch.testing.assert_close(ends[-1], data[f"b{b}/{sign}/{side}_emb"], atol=1e-5, rtol=0)
                torch.testing.assert_close(net(*ends), data[f"b{b}/{sign}/logit"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["all", "masked"])
@pytest.mark.parametrize("padding", ["mask", "node"])
def test_batch_of_one(pool: str, padding: str) -> None:
    data, want = load("stream_small.npz"), load("stream_small_b1.npz")
    nodes, _, _, long, length, _ = want["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(src, dst, time, nodes, long=long, kind="released", padding=padding)
    net, asked = network(data, pool), torch.stack([dst, data["neg_dst"].long()], 1)
    out = structure_pass(
        memory, index, src, dst, time, src.unsqueeze(1).expand_as(asked), asked,
        length=length, granularity="event", order="phase",
    )  # fmt: skip
    with torch.no_grad():
        for q, sign in enumerate(("pos", "neg")):
            for e in range(0, len(src), 7):
                one = slice(e, e + 1)
                ends = [
                    embed(net, data, time[one], type(seq)(*(a[one, q] for a in seq)), feat[one, q])
                    for seq, feat in ((out.src, out.src_feat), (out.dst, out.dst_feat))
                ]
                torch.testing.assert_close(ends[0], want[f"{sign}/src_emb"][one], atol=1e-5, rtol=0)
                torch.testing.assert_close(net(*ends), want[f"{sign}/logit"][one], atol=1e-5, rtol=0)


@pytest.mark.parametrize("granularity", ["timestamp", "event", 40])
def test_fixed_logits(granularity: str | int) -> None:
    data, want = load("stream_small.npz"), load("fixed_small.npz")
    nodes, _, long, short, length, columns = want["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(src, dst, time, nodes, long=long, short=short)
    asked = want["query_src"].long(), want["query_dst"].long()
    out = structure_pass(memory, index, src, dst, time, *asked, length=length, granularity=granularity)
    net, key = network(data, "masked"), "batch40" if granularity == 40 else granularity
    with torch.no_grad():
        for q in range(columns):
            ends = [
                embed(net, data, time, column(seq, q), feat[:, q])
                for seq, feat in ((out.src, out.src_feat), (out.dst, out.dst_feat))
            ]
            torch.testing.assert_close(net(*ends), want[f"{key}/logit"][:, q], atol=1e-5, rtol=0)
            if q == 0:
                torch.testing.assert_close(ends[0], want[f"{key}/src_emb"], atol=1e-5, rtol=0)


def inputs(rows: int, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    count = torch.randint(1, 7, (rows,), generator=g)
    delta = torch.rand(rows, 6, generator=g) * 1e6
    structure = torch.randint(0, 9, (rows, 6, 5), generator=g)
    return delta, structure * (torch.arange(6) < count[:, None])[..., None], count


@given(st.integers(0, 1000), st.integers(2, 20))
@settings(max_examples=15, deadline=None)
def test_score_alone_is_score_in_any_batch(seed: int, rows: int) -> None:
    net = CNENet(8, 8, 12, 6).eval()
    delta, structure, count = inputs(rows, seed)
    with torch.no_grad():
        whole = net.embed(None, None, delta, structure, count)
        for r in range(rows):
            one = slice(r, r + 1)
            alone = net.embed(None, None, delta[one], structure[one], count[one])
            torch.testing.assert_close(alone, whole[one], atol=1e-6, rtol=1e-6)


def test_absent_features_are_zeros() -> None:
    torch.manual_seed(0)
    net, (delta, structure, count) = CNENet(8, 9, 12, 6).eval(), inputs(5)
    zeros = torch.zeros(5, 6, 8), torch.zeros(5, 6, 9)
    torch.testing.assert_close(
        net.embed(None, None, delta, structure, count), net.embed(*zeros, delta, structure, count), atol=1e-6, rtol=1e-5
    )


def test_size_of_the_published_network() -> None:
    assert parameter_count(CNENet()) == 198_135


def test_losses_agree() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(binary_cross_entropy(logits, "released"), binary_cross_entropy(logits, "fixed"))


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="unknown pool 'max'"):
        CNENet(pool="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_layers=0"):
        CNENet(num_layers=0)
