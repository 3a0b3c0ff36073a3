"""The data module: states, epochs, leaks, loaders and bad settings."""

import pytest
import torch

from septet.datamodules.temporal_graph import EventStream, StructureSpec, TemporalGraphEvents
from septet.datamodules.temporal_graph.datamodule import SEEDS


def small(**kwargs) -> TemporalGraphEvents:
    data = TemporalGraphEvents(**{"generator": {"num_nodes": 60, "num_events": 600}, "batch_size": 50, **kwargs})
    data.setup()
    return data


def test_batches_carry_all_columns() -> None:
    data = small(num_negatives=3)
    batch = next(iter(data.train_dataloader()))
    assert batch.pair_dst.shape == (50, 2)
    assert batch.src.ids.shape == (50, 2, 10)
    assert batch.src_feat.shape == (50, 2, 10, 5)
    assert batch.src_feat.dtype == torch.uint8
    val, new_val = data.val_dataloader()
    assert next(iter(val)).pair_dst.shape == (50, 4)
    assert sum(len(b) for b in new_val) == len(data.splits.new_val)
    moved = batch.to("cpu")
    assert torch.equal(moved.src.ids, batch.src.ids)


def test_negatives_follow_seed_and_epoch_and_features_follow_negatives() -> None:
    one, two = small(), small()
    assert torch.equal(one.train_links(0).pair_dst, two.train_links(0).pair_dst)
    assert not torch.equal(one.train_links(0).pair_dst, one.train_links(1).pair_dst)
    first = one.train_links(3)
    one.evaluation_links("val"), one.evaluation_links("test"), one.train_links(4)
    again = one.train_links(3)
    assert torch.equal(first.src_feat, again.src_feat)
    assert torch.equal(first.dst_feat, again.dst_feat)
    positives = one.train_links(5)
    assert torch.equal(positives.src.ids if hasattr(positives, "src") else positives.pair_src, first.pair_src)


def test_evaluation_does_not_depend_on_what_ran_before() -> None:
    fresh, used = small(), small()
    for epoch in range(2):
        used.train_links(epoch)
    for part in ("new_test", "test", "new_val", "val"):
        used.evaluation_links(part)
    for part in SEEDS:
        a, b = fresh.evaluation_links(part), used.evaluation_links(part)
        assert torch.equal(a.src_feat, b.src_feat), part
        assert torch.equal(a.dst_feat, b.dst_feat), part
        assert torch.equal(a.pair_dst, b.pair_dst), part


def test_no_hidden_node_reaches_training() -> None:
    data = small()
    links = data.train_links(0)
    assert data.states is not None
    stream, splits = data.stream, data.splits
    seen = torch.unique(torch.cat([stream.src[splits.train], stream.dst[splits.train]]))
    assert set(data.train_index.neighbor.tolist()) <= set(seen.tolist())
    data.states.restore("A")
    table = data.states.memory.table
    assert set(table[table != 0].tolist()) <= set(seen.tolist())
    assert not set(links.pair_src.flatten().tolist()) - set(seen.tolist())


def test_validation_does_not_see_the_future() -> None:
    whole = small()
    stop = int(whole.splits.val[-1]) + 1
    cut = small()
    stream = cut.stream
    later = stream.dst[stop:]
    stream.dst[stop:] = later.flip(0)
    changed = TemporalGraphEvents(batch_size=50)
    changed._read = lambda: EventStream(stream.src, stream.dst, stream.time, stream.num_nodes)  # type: ignore[method-assign]
    changed.setup()
    if not torch.equal(changed.splits.train, whole.splits.train):
        pytest.skip("the changed future moved the split itself")
    a, b = whole.evaluation_links("val"), changed.evaluation_links("val")
    assert torch.equal(a.src_feat[:, 0], b.src_feat[:, 0])


def test_in_stream_new_nodes() -> None:
    alone, within = small(), small(new_nodes="in_stream")
    assert torch.equal(alone.evaluation_links("new_val").pair_dst, within.evaluation_links("new_val").pair_dst)
    whole = within.evaluation_links("val")
    place = torch.searchsorted(within.splits.val, within.splits.new_val)
    assert torch.equal(within.evaluation_links("new_val").src_feat[:, 0], whole.src_feat[place, 0])


def test_cache_gives_the_same_features(tmp_path) -> None:
    plain, cached, again = small(), small(cache_dir=str(tmp_path)), small(cache_dir=str(tmp_path))
    want = plain.evaluation_links("test").src_feat
    assert torch.equal(cached.evaluation_links("test").src_feat, want)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    again.states._pass = None  # type: ignore[union-attr, method-assign, assignment]  # a hit must not stream anything
    assert torch.equal(again.evaluation_links("test").src_feat, want)


def test_predictions_of_the_test_events_and_of_a_file(tmp_path) -> None:
    data = small()
    links = data.predict_dataloader().dataset.links
    assert links.pair_src.shape == (len(data.splits.test), 1)
    stream, at = data.stream, data.splits.test
    rows = "\n".join(f"{stream.src[i]},{stream.dst[i]},{stream.time[i]}" for i in at.tolist())
    (tmp_path / "ask.csv").write_text(f"u,i,ts\n{rows}\n")
    asked = small(predict_path=str(tmp_path / "ask.csv"))
    assert torch.equal(asked.predict_dataloader().dataset.links.src_feat, links.src_feat)
    (tmp_path / "ask.csv").write_text("u,i,ts\n1,61,5\n")
    with pytest.raises(ValueError, match="destination 61 of pair 0 occurs in no event"):
        asked.predict_dataloader()


def test_shuffled_batches_carry_the_same_features() -> None:
    plain, mixed = small(), small(shuffle=True)
    rows = {int(e): f for b in plain.train_dataloader() for e, f in zip(b.event, b.src_feat, strict=True)}
    order = [int(e) for b in mixed.train_dataloader() for e in b.event]
    assert sorted(order) == sorted(rows)
    assert order != sorted(order)
    for batch in mixed.train_dataloader():
        for event, features in zip(batch.event, batch.src_feat, strict=True):
            assert torch.equal(features, rows[int(event)])


def test_without_structure() -> None:
    batch = next(iter(small(structure=None, length=4).train_dataloader()))
    assert batch.src_feat is None
    assert batch.src.ids.shape[-1] == 4


def test_checkpoint_state_names_changed_structure() -> None:
    state = small().state_dict()
    small().load_state_dict(state)
    with pytest.warns(UserWarning, match="trained with structure"):
        small(structure=StructureSpec(long=32)).load_state_dict(state)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"source": "kafka"}, "unknown source 'kafka'"),
        ({"source": "csv"}, "needs a path"),
        ({"protocol": "ogb"}, "unknown protocol 'ogb'"),
        ({"negatives": "hard"}, "unknown negatives 'hard'"),
        ({"new_nodes": "never"}, "unknown new_nodes 'never'"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"structure": StructureSpec(length=0)}, "structure.length=0"),
        ({"structure": StructureSpec(long=300)}, "structure.long=300"),
        ({"structure": StructureSpec(granularity=0)}, "granularity 0"),
        ({"structure": StructureSpec(order="size")}, "unknown write order"),  # type: ignore[arg-type]
        ({"structure": StructureSpec(kind="md5")}, "unknown hash kind"),  # type: ignore[arg-type]
        ({"structure": StructureSpec(padding="zero")}, "structure.padding='zero'"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalGraphEvents(**kwargs)


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"no event file absent\.csv"):
        TemporalGraphEvents(source="csv", path="absent.csv").prepare_data()


def test_tied_events_with_granularity_event_are_warned_about() -> None:
    data = TemporalGraphEvents(
        structure=StructureSpec(granularity="event"),
        generator={"num_nodes": 40, "num_events": 400, "gap": 0.5, "burst_gap": 0.5},
    )
    with pytest.warns(UserWarning, match="use 'timestamp'"):
        data.setup()
