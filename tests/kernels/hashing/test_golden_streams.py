"""Sequences, features and tables equal the golden streams, exactly, on every backend."""

import pytest
import torch

from septet.kernels.hashing import structure_pass
from tests.kernels.hashing.streams import BACKENDS, build, events, load


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["stream_small.npz", "stream_tiny_m4_l2.npz"])
def test_released_stream(name: str, backend: str) -> None:
    data = load(name)
    nodes, _, size, long, length, batches = data["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(
        src, dst, time, nodes, long=long, short=long // 4, kind="released", padding="node", backend=backend
    )
    for b in range(batches):
        part = slice(b * size, (b + 1) * size)
        asked_dst = torch.stack([dst[part], data["neg_dst"][part].long()], 1)
        asked_src = src[part].unsqueeze(1).expand_as(asked_dst)
        out = structure_pass(
            memory, index, src[part], dst[part], time[part], asked_src, asked_dst,
            length=length, granularity=size, order="phase",
        )  # fmt: skip
        for q, sign in enumerate(("pos", "neg")):
            for side, seq, feat in (("src", out.src, out.src_feat), ("dst", out.dst, out.dst_feat)):
                want = {k: data[f"b{b}/{sign}/{side}_{k}"] for k in ("nbr", "nbr_t", "nbr_eid", "feat")}
                used = want["nbr"].shape[1]
                assert torch.equal(seq.ids[:, q, :used], want["nbr"].long())
                assert torch.equal(seq.time[:, q, :used].float(), want["nbr_t"])
                assert torch.equal(seq.edge_id[:, q, :used], want["nbr_eid"].long())
                assert torch.equal(feat[:, q, :used].short(), want["feat"])
                assert not seq.ids[:, q, used:].any()
                assert not feat[:, q, used:].any()
        assert torch.equal(memory.table, data[f"b{b}/mem_after"])
    assert torch.equal(memory.table, data["mem_final"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", ["mask", "node"])
@pytest.mark.parametrize("granularity", ["event", 1])
def test_batch_of_one(backend: str, padding: str, granularity: str | int) -> None:
    data, want = load("stream_small.npz"), load("stream_small_b1.npz")
    nodes, _, _, long, length, _ = want["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(src, dst, time, nodes, long=long, kind="released", padding=padding, backend=backend)
    asked_dst = torch.stack([dst, data["neg_dst"].long()], 1)
    out = structure_pass(
        memory, index, src, dst, time, src.unsqueeze(1).expand_as(asked_dst), asked_dst,
        length=length, granularity=granularity, order="phase",
    )  # fmt: skip
    for q, sign in enumerate(("pos", "neg")):
        for side, seq, feat in (("src", out.src, out.src_feat), ("dst", out.dst, out.dst_feat)):
            assert torch.equal(seq.ids[:, q], want[f"{sign}/{side}_nbr"].long())
            assert torch.equal(seq.count[:, q], want[f"{sign}/{side}_count"].long())
            assert torch.equal(feat[:, q].short(), want[f"{sign}/{side}_feat"])
    assert torch.equal(memory.table, want["mem_final"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("granularity", ["timestamp", "event", 40])
def test_fixed_stream(backend: str, granularity: str | int) -> None:
    data, want = load("stream_small.npz"), load("fixed_small.npz")
    nodes, _, long, short, length, _ = want["meta"].tolist()
    src, dst, time = events(data)
    memory, index = build(src, dst, time, nodes, long=long, short=short, backend=backend)
    out = structure_pass(
        memory, index, src, dst, time, want["query_src"].long(), want["query_dst"].long(),
        length=length, granularity=granularity,
    )  # fmt: skip
    key = "batch40" if granularity == 40 else granularity
    for side, seq, feat in (("src", out.src, out.src_feat), ("dst", out.dst, out.dst_feat)):
        assert torch.equal(seq.ids, want[f"{side}_ids"].long())
        assert torch.equal(seq.time, want[f"{side}_time"])
        assert torch.equal(seq.edge_id, want[f"{side}_edge_id"].long())
        assert torch.equal(seq.count, want[f"{side}_count"].long())
        assert torch.equal(feat, want[f"{key}/{side}_feat"])
    assert torch.equal(memory.table, want[f"{key}/table"])
