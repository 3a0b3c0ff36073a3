"""Properties of the structure pass: no future leaks in, ties are blind to each other, backends agree bit for bit."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex, structure_pass, versions
from tests.kernels.hashing.streams import BACKENDS, build, random_stream


def features(src, dst, time, nodes=30, asked=None, *, length=5, memory=None, **kwargs):
    """Features, and the table after the pass."""
    table, index = build(src, dst, time, nodes, **{"long": 8, **(memory or {})})
    asked = dst.unsqueeze(1) if asked is None else asked
    out = structure_pass(
        table, index, src, dst, time, src.unsqueeze(1).expand_as(asked), asked, length=length, **kwargs
    )
    return out, table.table


@given(st.integers(0, 10_000), st.integers(1, 119))
@settings(max_examples=20, deadline=None)
def test_no_feature_depends_on_a_later_event(seed: int, cut: int) -> None:
    src, dst, time = random_stream(seed=seed)
    whole, _ = features(src, dst, time, memory={"backend": "torch"})
    stop = int(torch.searchsorted(time, time[cut]))
    known = (time <= time[cut]).sum()
    part, _ = features(src[:known], dst[:known], time[:known], memory={"backend": "torch"})
    assert stop <= cut
    assert torch.equal(part.src_feat, whole.src_feat[:known])
    assert torch.equal(part.dst_feat, whole.dst_feat[:known])
    assert torch.equal(part.src.ids, whole.src.ids[:known])


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_tied_events_do_not_see_each_other(seed: int) -> None:
    src, dst, time = random_stream(seed=seed)
    order = torch.argsort(torch.rand(len(time), generator=torch.Generator().manual_seed(seed)))
    order = order[torch.argsort(time[order], stable=True)]
    tie = time == time[len(time) // 2]
    moved = torch.where(tie, order, torch.arange(len(time)))
    first, _ = features(src, dst, time)
    second, _ = features(src[moved], dst[moved], time)
    back = torch.argsort(moved)
    last = int(tie.nonzero().max()) + 1
    assert torch.equal(second.src_feat[back][:last], first.src_feat[:last])
    assert torch.equal(second.dst_feat[back][:last], first.dst_feat[:last])


@pytest.mark.parametrize("padding", ["mask", "node"])
@pytest.mark.parametrize("order", ["event", "phase"])
@pytest.mark.parametrize("granularity", ["timestamp", "event", 7, 100])
@pytest.mark.parametrize("long", [4, 32])
def test_backends_agree(padding: str, order: str, granularity: str | int, long: int) -> None:
    src, dst, time = random_stream(seed=5)
    asked = torch.randint(1, 31, (len(src), 3), generator=torch.Generator().manual_seed(1))
    results = [
        features(
            src, dst, time, asked=asked, order=order, granularity=granularity,
            memory={"padding": padding, "backend": b, "long": long},
        )
        for b in BACKENDS
    ]  # fmt: skip
    for out, table in results[1:]:
        assert torch.equal(out.src_feat, results[0][0].src_feat)
        assert torch.equal(out.dst_feat, results[0][0].dst_feat)
        assert torch.equal(table, results[0][1])


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_threads_change_nothing(backend: str) -> None:
    src, dst, time = random_stream(num_nodes=8, num_events=3000, seed=2)
    before, tables = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            tables.append(features(src, dst, time, granularity=3000, memory={"backend": backend})[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*tables)


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_of_no_node_stays_empty_when_masked(backend: str) -> None:
    _, table = features(*random_stream(), memory={"backend": backend})
    assert not table[0].any()
    assert table[1:].any()


def test_chunks_of_whole_groups_compose() -> None:
    src, dst, time = random_stream(seed=3)
    whole, table = features(src, dst, time)
    memory, index = build(src, dst, time, 30, long=8)
    cut = int(torch.searchsorted(time, time[60]))
    parts = [
        structure_pass(memory, index, src[p], dst[p], time[p], src[p, None], dst[p, None], length=5)
        for p in (slice(0, cut), slice(cut, None))
    ]
    assert torch.equal(torch.cat([p.src_feat for p in parts]), whole.src_feat)
    assert torch.equal(memory.table, table)


def test_snapshot_restore_reset() -> None:
    src, dst, time = random_stream()
    memory, index = build(src, dst, time, 30, long=8)
    half = slice(0, 60), slice(60, None)
    run = [
        lambda p=p: structure_pass(memory, index, src[p], dst[p], time[p], src[p, None], dst[p, None], length=5)
        for p in half
    ]
    run[0]()
    saved = memory.snapshot()
    first = run[1]()
    assert not torch.equal(memory.table, saved)
    address = memory.table.data_ptr()
    memory.restore(saved)
    assert torch.equal(memory.table, saved)
    assert torch.equal(run[1]().dst_feat, first.dst_feat)
    memory.reset()
    assert not memory.table.any()
    assert memory.table.data_ptr() == address


def test_reading_without_writing_leaves_the_table() -> None:
    src, dst, time = random_stream()
    for backend in BACKENDS:
        memory, index = build(src, dst, time, 30, long=8, backend=backend)
        structure_pass(memory, index, src, dst, time, src[:, None], dst[:, None], length=5)
        saved = memory.snapshot()
        out = structure_pass(memory, index, src, dst, time, src[:, None], dst[:, None], length=5, write=False)
        assert torch.equal(memory.table, saved)
        assert out.src_feat.any()


@pytest.mark.parametrize("base", [2**24, 2**31 + 5])
def test_large_ids_in_the_index(base: int) -> None:
    src, dst, time = random_stream()
    small = TemporalNeighborIndex(src, dst, time).sequence(src, time, 4)
    large = TemporalNeighborIndex(src + base, dst + base, time).sequence(src + base, time, 4)
    assert torch.equal(large.ids, torch.where(small.ids > 0, small.ids + base, 0))


def test_large_ids_in_the_table() -> None:
    src, dst, time = (c[:40] for c in random_stream())
    memory = HashNeighborMemory(2**24 + 40, long=4, short=1)
    index = TemporalNeighborIndex(src + 2**24, dst + 2**24, time)
    asked = (src + 2**24)[:, None], (dst + 2**24)[:, None]
    structure_pass(memory, index, src + 2**24, dst + 2**24, time, *asked, length=3)
    written = memory.table[memory.table != 0]
    assert int(written.min()) > 2**24
    assert set(written.tolist()) <= set((torch.cat([src, dst]) + 2**24).tolist())


def test_float_times_keep_their_precision() -> None:
    time = torch.tensor([1e9, 1e9 + 0.25, 1e9 + 0.5], dtype=torch.float64)
    index = TemporalNeighborIndex(torch.tensor([1, 1, 1]), torch.tensor([2, 3, 4]), time)
    out = index.recent(torch.tensor([1]), time[2:], 5)
    assert out.ids.tolist() == [[2, 3, 0, 0, 0]]
    assert out.time.dtype == torch.float64


def test_self_event_enters_twice() -> None:
    index = TemporalNeighborIndex(torch.tensor([1]), torch.tensor([1]), torch.tensor([0]))
    assert index.recent(torch.tensor([1]), torch.tensor([1]), 3).ids.tolist() == [[1, 1, 0]]


@given(st.integers(0, 10_000), st.integers(1, 6))
@example(seed=1009, length=2)  # an empty node first, the next at the same time
@settings(max_examples=20, deadline=None)
def test_native_look_up_equals_torch(seed: int, length: int) -> None:
    src, dst, time = random_stream(seed=seed)
    g = torch.Generator().manual_seed(seed)
    nodes, times = torch.randint(0, 31, (50,), generator=g), torch.randint(0, 150, (50,), generator=g)
    both = [
        TemporalNeighborIndex(src, dst, time, num_nodes=30, backend=b).sequence(nodes, times, length)
        for b in ("auto", "torch")
    ]
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("padding", ["mask", "node"])
@pytest.mark.parametrize("order", ["event", "phase"])
@pytest.mark.parametrize("nodes", [30, 40_000])
@pytest.mark.parametrize("shared", [False, True])
def test_blocks_of_groups_agree_with_native_loops(monkeypatch, padding: str, order: str, nodes: int, shared: bool):
    """Several blocks, ids beyond 16 bits, sources that differ between the columns or do not."""
    monkeypatch.setattr(versions, "CPU_BLOCK", 16)
    src, dst, time = random_stream(seed=6, num_events=200)
    scale = nodes // 30
    g = torch.Generator().manual_seed(2)
    asked = torch.randint(1, 31, (2, len(src), 3), generator=g)
    if shared:
        asked[0] = asked[0, :, :1]
    results = []
    for backend in ("native", "torch"):
        memory, index = build(
            src * scale, dst * scale, time, nodes, long=8, padding=padding, backend=backend, kind="released"
        )
        out = structure_pass(
            memory, index, src * scale, dst * scale, time, asked[0] * scale, asked[1] * scale, length=5, order=order
        )
        results.append((out.src_feat, out.dst_feat, memory.table))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_native_index_equals_the_sorted_one() -> None:
    src, dst, time = random_stream(seed=7)
    one = TemporalNeighborIndex(src, dst, time, num_nodes=40)
    two = TemporalNeighborIndex(src, dst, time, num_nodes=40, backend="torch")
    assert torch.equal(one.key, two.key)
    assert torch.equal(one.neighbor, two.neighbor)
    assert torch.equal(one.degrees(), two.degrees())
    assert one.degrees()[31:].sum() == 0
    asked, when = torch.arange(41), torch.full((41,), int(time[70]))
    for a, b in zip(one.sequence(asked, when, 6), two.sequence(asked, when, 6), strict=True):
        assert torch.equal(a, b)
    only = one.sequence(asked, when, 6, ids_only=True)
    assert torch.equal(only.ids, two.sequence(asked, when, 6).ids)
    assert only.time.shape == (41, 0)
