"""Splits and negatives equal the published protocol."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.paths import golden, shared_data

from septet.datamodules.temporal_graph import NegativeSampler, dyglib_split, read_events, synthetic_events, tgb_split
from septet.datamodules.temporal_graph.negatives import batched_negatives

NAMES = ("uci", "wikipedia", "bitcoinalpha")
PARTS = {"train": "train", "val": "val", "test": "test", "new_val": "nval", "new_test": "ntest"}


def load(name: str):
    stream = read_events(shared_data(f"temporal_graph/{name}.npz"))
    return stream, dyglib_split(stream), np.load(golden("cne_n", f"protocol_{name}.npz"))


@pytest.mark.parametrize("name", NAMES)
def test_split(name: str) -> None:
    _, splits, want = load(name)
    for part, key in PARTS.items():
        assert np.array_equal(getattr(splits, part).numpy() + 1, want[f"{key}_eid"]), part


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("part", "seed"), [("val", 0), ("new_val", 1), ("test", 2), ("new_test", 3)])
def test_random_negatives(name: str, part: str, seed: int) -> None:
    stream, splits, want = load(name)
    at = getattr(splits, part)
    pool = at if part.startswith("new") else slice(None)
    sampler = NegativeSampler(stream.src[pool], stream.dst[pool], seed=seed)
    src, dst = batched_negatives(sampler, stream.src[at], stream.dst[at], stream.time[at], 200)
    assert torch.equal(src[:, 0], stream.src[at])
    assert np.array_equal(dst[:, 0].numpy(), want[f"{PARTS[part]}_random_neg_dst"])


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "batches"), [("historical", 45), ("inductive", 25)])
def test_hard_negatives_in_set_order(strategy: str, batches: int) -> None:
    stream, splits, want = load("uci")
    at = splits.test[: 200 * batches]
    sampler = NegativeSampler(
        stream.src, stream.dst, stream.time, strategy=strategy, seed=2, compat=True,
        last_observed_time=float(stream.time[splits.val[-1]]),
    )  # fmt: skip
    src, dst = batched_negatives(sampler, stream.src[at], stream.dst[at], stream.time[at], 200)
    assert np.array_equal(src[:, 0].numpy(), want[f"test_{strategy}_neg_src"])
    assert np.array_equal(dst[:, 0].numpy(), want[f"test_{strategy}_neg_dst"])


@given(st.integers(0, 500), st.sampled_from(["historical", "inductive"]), st.integers(5, 150))
@settings(max_examples=25, deadline=None)
def test_hard_negatives_keep_their_promises(seed: int, strategy: str, size: int) -> None:
    stream = synthetic_events(30, 300, seed=seed)
    start = 220
    at = torch.arange(start, min(start + size, 300))
    src, dst, time = stream.src[at], stream.dst[at], stream.time[at]
    observed = float(stream.time[100])
    sampler = NegativeSampler(
        stream.src, stream.dst, stream.time, strategy=strategy, seed=seed, last_observed_time=observed
    )
    drawn = list(zip(*(x.tolist() for x in sampler.sample(src, dst, time)), strict=True))
    pairs = list(zip(stream.src.tolist(), stream.dst.tolist(), strict=True))
    times = stream.time.tolist()
    window = {p for p, t in zip(pairs, times, strict=True) if time[0] <= t <= time[-1]}
    known = {p for p, t in zip(pairs, times, strict=True) if t <= time[0]} - window
    if strategy == "inductive":
        known -= {p for p, t in zip(pairs, times, strict=True) if t <= observed}
    assert len(drawn) == len(at)
    assert not set(drawn) & window
    assert len(set(drawn) & known) >= min(len(known), len(at))
    if len(known) >= len(at):
        assert len(set(drawn)) == len(at)
    sampler.reset()
    again = list(zip(*(x.tolist() for x in sampler.sample(src, dst, time)), strict=True))
    assert again == drawn


def test_small_pool_is_filled_without_the_batch() -> None:
    src, dst = torch.tensor([1, 1, 2]), torch.tensor([3, 4, 3])
    sampler = NegativeSampler(src, dst, torch.tensor([0, 1, 2]), strategy="historical")
    drawn = sampler.sample(src, dst, torch.tensor([0, 1, 2]))
    assert list(zip(*(x.tolist() for x in drawn), strict=True)) == [(2, 4)] * 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strategy": "hard"}, "unknown negative strategy 'hard'"),
        ({"strategy": "historical"}, "needs the times"),
        ({"strategy": "inductive", "time": torch.tensor([0, 1])}, "needs last_observed_time"),
    ],
)
def test_bad_sampler(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NegativeSampler(torch.tensor([1, 2]), torch.tensor([2, 1]), **kwargs)


def test_batch_of_all_pairs_has_no_negative() -> None:
    one = torch.tensor([1])
    sampler = NegativeSampler(one, one + 1, torch.tensor([0]), strategy="historical")
    with pytest.raises(ValueError, match="no negative can be drawn"):
        sampler.sample(one, one + 1, torch.tensor([0]))


def test_bad_splits() -> None:
    stream = synthetic_events(20, 100)
    with pytest.raises(ValueError, match=r"val_ratio=0\.6, test_ratio=0\.5"):
        dyglib_split(stream, 0.6, 0.5)
    with pytest.raises(ValueError, match=r"new_node_ratio=1\.5"):
        dyglib_split(stream, new_node_ratio=1.5)
    with pytest.raises(ValueError, match="lower new_node_ratio"):
        dyglib_split(synthetic_events(200, 400), 0.01, 0.01, new_node_ratio=0.9)
    stream.time = torch.zeros_like(stream.time)
    with pytest.raises(ValueError, match="the val split is empty"):
        tgb_split(stream)


def test_tgb_hides_no_node() -> None:
    stream = synthetic_events(40, 400)
    splits = tgb_split(stream)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 400
