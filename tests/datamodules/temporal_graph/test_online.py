"""Features computed while the model trains equal those computed before it, also after a resume."""

import itertools

import pytest
import torch

from septet.datamodules.temporal_graph import StructureSpec, TemporalGraphEvents, online, structure
from septet.datamodules.temporal_graph.online import Prefetch


def small(**kwargs) -> TemporalGraphEvents:
    data = TemporalGraphEvents(**{"generator": {"num_nodes": 60, "num_events": 900}, "batch_size": 50, **kwargs})
    data.setup()
    return data


def same(a, b) -> None:
    for name in ("pair_src", "pair_dst", "time", "event", "src_feat", "dst_feat"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for side in ("src", "dst"):
        for x, y in zip(getattr(a, side), getattr(b, side), strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("chunk", [64, 10_000])
@pytest.mark.parametrize("spec", [StructureSpec(), StructureSpec(granularity=7), StructureSpec.released(6, 16)])
def test_batches_are_equal_bit_for_bit(monkeypatch, chunk: int, spec: StructureSpec) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", chunk)
    cached, streamed = small(structure=spec), small(structure=spec, features="online")
    loaders = cached.train_dataloader(), streamed.train_dataloader()
    for epoch in range(2):
        for loader in loaders:
            loader.batches.set_epoch(epoch)
        number = 0
        for a, b in zip(*loaders, strict=True):
            same(a, b)
            number += 1
        assert number == len(loaders[0])
    streamed.teardown("fit")


def test_evaluation_in_the_middle_of_an_epoch_changes_nothing(monkeypatch) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", 64)
    cached, streamed = small(), small(features="online")
    want = list(cached.train_dataloader())
    for number, batch in enumerate(streamed.train_dataloader()):
        same(batch, want[number])
        if number == 3:
            for part in ("val", "test"):
                assert torch.equal(streamed.evaluation_links(part).src_feat, cached.evaluation_links(part).src_feat)


def test_a_resumed_epoch_begins_in_the_middle(monkeypatch) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", 64)
    want = list(small().train_dataloader())
    resumed = small(features="online").train_dataloader()
    resumed.load_state_dict({"position": 5})
    got = list(resumed)
    assert len(got) == len(want) - 5
    for a, b in zip(got, want[5:], strict=True):
        same(a, b)


def test_a_shorter_read_leaves_no_thread_behind(monkeypatch) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", 64)
    data = small(features="online")
    first = list(itertools.islice(data.train_dataloader(), 2))
    assert len(first) == 2
    source = data._served._links._source
    data.teardown("fit")
    assert not source._thread.is_alive()
    assert next(iter(source), None) is None


def test_a_rank_that_skips_batches_reads_the_same(monkeypatch) -> None:
    monkeypatch.setattr(online, "CHUNK_EVENTS", 64)
    data = small(features="online")
    links, want = data._online_links(0), small().train_links(0)
    for items in torch.arange(len(data.splits.train)).split(50)[1::2]:
        same(links.batch(items), want.batch(items))
    links.close()


def test_large_tables_are_kept_in_files(monkeypatch, tmp_path) -> None:
    want = {part: small().evaluation_links(part) for part in ("val", "test")}
    monkeypatch.setattr(structure, "LARGE_TABLE", 0)
    data = small(cache_dir=str(tmp_path))
    for part, links in want.items():
        assert torch.equal(data.evaluation_links(part).src_feat, links.src_feat)
    data.train_links(0)
    data.states.restore("A")
    assert data.states.memory.table.any()
    assert {p.suffix for p in tmp_path.iterdir()} == {".npy"}


def test_an_error_of_the_thread_reaches_the_reader() -> None:
    def chunks():
        yield 1
        raise ValueError("the disk is gone")

    read = Prefetch(chunks())
    assert next(read) == 1
    with pytest.raises(ValueError, match="the disk is gone"):
        next(read)
    with pytest.raises(StopIteration):
        next(read)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="unknown features 'lazy'"):
        TemporalGraphEvents(features="lazy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set shuffle=False"):
        TemporalGraphEvents(features="online", shuffle=True)
    with pytest.raises(ValueError, match="unknown negatives 'hard'"):
        TemporalGraphEvents(test_negatives=["hard"])
    with pytest.raises(ValueError, match="belong to protocol 'dyglib'"):
        TemporalGraphEvents(test_negatives=["historical"], protocol="tgb")
