"""GraphMixer, DyGFormer and TGN equal the golden embeddings, logits and states."""

import pytest
import torch
from tests.kernels.hashing.streams import events, load

from septet.kernels.hashing import NodeSequence, TemporalNeighborIndex, co_occurrence
from septet.lightning_modules.cne_n.baselines import TGN, DyGFormer, GraphMixer
from septet.lightning_modules.cne_n.features import FeatureTables


def golden_state(name: str) -> tuple[dict, dict, list[int]]:
    stream, data = load("stream_small.npz"), load("baselines_small.npz")
    weights = {k.split("/w/")[1]: v for k, v in data.items() if k.startswith(f"{name}/w/")}
    return (
        stream,
        {k.split("/", 1)[1]: v for k, v in data.items() if k.startswith(f"{name}/b")} | {"w": weights},
        data["params"].tolist(),
    )


def world(stream: dict):
    src, dst, time = events(stream)
    index = TemporalNeighborIndex(src, dst, time, num_nodes=60)
    return src, dst, time, index, FeatureTables(stream["node_feat"].float(), stream["edge_feat"].float())


def close(a, b) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_graphmixer() -> None:
    stream, want, params = golden_state("graphmixer")
    tokens, window, size, batches = params[0], params[1], params[5], params[6]
    src, dst, time, index, tables = world(stream)
    net = GraphMixer.from_reference(want["w"], window=window).eval()
    assert net.tokens == tokens

    def embed(nodes, at):
        past, near = index.recent(nodes, time[at], tokens), index.recent(nodes, time[at], window)
        delta = (time[at].unsqueeze(1) - past.time).float()
        part = net.window_part(tables.node[near.ids], near.count)
        return net.embed(tables.edge[past.edge_id], delta, past.count, tables.node[nodes], part)

    with torch.no_grad():
        for b in range(batches):
            at = slice(b * size, (b + 1) * size)
            for sign, target in (("neg", stream["neg_dst"].long()), ("pos", dst)):
                ends = embed(src[at], at), embed(target[at], at)
                close(ends[0], want[f"b{b}/{sign}/src_emb"])
                close(ends[1], want[f"b{b}/{sign}/dst_emb"])
                close(net(*ends), want[f"b{b}/{sign}/logit"])


def test_dygformer() -> None:
    stream, want, params = golden_state("dygformer")
    length, patch, size, batches = params[2], params[3], params[5], params[6]
    src, dst, time, index, tables = world(stream)
    net = DyGFormer.from_reference(want["w"], patch=patch).eval()
    with torch.no_grad():
        for b in range(batches):
            at = slice(b * size, (b + 1) * size)
            for sign, target in (("neg", stream["neg_dst"].long()), ("pos", dst)):
                sides = [index.sequence(n[at], time[at], length) for n in (src, target)]
                used = want[f"b{b}/{sign}/src_seq"].shape[1], want[f"b{b}/{sign}/dst_seq"].shape[1]
                assert torch.equal(sides[0].ids[:, : used[0]], want[f"b{b}/{sign}/src_seq"].long())
                counts = co_occurrence(sides[0].ids, sides[1].ids)
                assert torch.equal(counts[0][:, : used[0]], want[f"b{b}/{sign}/src_count"].long())
                assert torch.equal(counts[1][:, : used[1]], want[f"b{b}/{sign}/dst_count"].long())
                ends = net.embed(time[at], *sides, tables)
                close(ends[0], want[f"b{b}/{sign}/src_emb"])
                close(ends[1], want[f"b{b}/{sign}/dst_emb"])
                close(net(*ends), want[f"b{b}/{sign}/logit"])


def test_tgn() -> None:
    stream, want, params = golden_state("tgn")
    neighbors, size, batches = params[4], params[5], params[6]
    src, dst, time, index, tables = world(stream)
    net = TGN.from_reference(want["w"], num_nodes=60, neighbors=neighbors).eval()
    with torch.no_grad():
        for b in range(batches):
            at = slice(b * size, (b + 1) * size)
            for sign, target in (("neg", stream["neg_dst"].long()), ("pos", dst)):
                ends = [
                    net.embed(n[at], time[at], index.recent(n[at], time[at], neighbors), tables) for n in (src, target)
                ]
                close(ends[0], want[f"b{b}/{sign}/src_emb"])
                close(ends[1], want[f"b{b}/{sign}/dst_emb"])
                close(net(*ends), want[f"b{b}/{sign}/logit"])
            net.write(src[at], dst[at], time[at], tables.edge[stream["eid"][at].long()])
            close(net.memory, want[f"b{b}/memory_after"])
            close(net.last_update.float(), want[f"b{b}/last_update_after"].float())


def test_tgn_state_goes_back_in_place() -> None:
    net = TGN(5, 4, 4, 4, heads=2)
    one = torch.tensor([1, 2])
    saved = net.snapshot()
    net.write(one, one + 2, one, None)
    assert net.pending.any()
    address = net.memory.data_ptr()
    net.restore(saved)
    assert not net.pending.any()
    assert net.memory.data_ptr() == address
    with pytest.raises(ValueError, match="snapshot memory"):
        net.restore({**saved, "memory": torch.zeros(2, 4)})


def test_wrong_lengths_are_named() -> None:
    seq = NodeSequence(*(torch.ones(1, 2, 3, dtype=torch.int64) for _ in range(3)), torch.ones(1, 2, dtype=torch.int64))
    batch = type("Batch", (), {"src": seq, "dst": seq, "time": torch.tensor([1]), "pair_src": torch.ones(1, 2)})
    with pytest.raises(ValueError, match="length to 21"):
        GraphMixer().score(batch, FeatureTables())
    with pytest.raises(ValueError, match="length to 11"):
        TGN(5).score(batch, FeatureTables())
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        TGN(5, 4, 4, 4, heads=3)
