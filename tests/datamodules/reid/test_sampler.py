"""The P x K sampler: passes, lengths, processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.datamodules.reid import CrossModalPKBatchSampler

LABELS = np.repeat(np.arange(11), 6), np.repeat(np.arange(11), 9)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(0, 10**6),
    st.sampled_from(["epoch", "official"]),
)
def test_ranks_take_equally_many_steps_of_p_times_k_pairs(p, k, world, seed, mode):
    options = {"p": p, "k": k, "mode": mode, "seed": seed, "world_size": world}
    ranks = [list(CrossModalPKBatchSampler(*LABELS, rank=r, **options)) for r in range(world)]
    assert {len(r) for r in ranks} == {len(CrossModalPKBatchSampler(*LABELS, **options))}
    for batches in zip(*ranks, strict=True):
        seen = [{int(LABELS[0][v]) for v, _ in batch} for batch in batches]
        assert all(LABELS[0][v] == LABELS[1][i] for batch in batches for v, i in batch)
        assert all(len(batch) == p * k for batch in batches)
        assert all(len(ids) == p for ids in seen)
        if mode == "epoch":
            assert len(set.union(*seen)) == p * world


def test_a_pass_visits_every_identity_and_repeats_no_image_in_a_batch():
    sampler = CrossModalPKBatchSampler(*LABELS, p=3, k=4)
    batches = list(sampler)
    first_pass = batches[: -(-11 // 3)]
    assert {int(LABELS[0][v]) for batch in first_pass for v, _ in batch} == set(range(11))
    for batch in batches:
        assert len({v for v, _ in batch}) == len(batch)
        assert len({i for _, i in batch}) == len(batch)


def test_epochs_differ_and_can_be_chosen():
    sampler = CrossModalPKBatchSampler(*LABELS, p=3, k=4)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    other = CrossModalPKBatchSampler(*LABELS, p=3, k=4)
    other.load_state_dict({"epoch": 1, "start": 2})
    assert list(other) == second[2:]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_camera_balance(p, k, seed, counts):
    """A hand takes from every camera in turn: counts differ by one at most, but for cameras dealt out; no repeats."""
    cams = np.repeat(np.arange(len(counts)), counts)
    labels = np.repeat(np.arange(4), len(cams))
    cameras = np.tile(cams, 4)
    sampler = CrossModalPKBatchSampler(labels, labels, p=p, k=k, seed=seed, cameras=(cameras, cameras))
    for batch in sampler:
        for side in range(2):
            for start in range(0, len(batch), k):
                hand = [pair[side] for pair in batch[start : start + k]]
                if len(cams) < k:
                    continue
                assert len(set(hand)) == k
                dealt = np.bincount(cameras[hand], minlength=len(counts))
                free = dealt < counts
                assert not free.any() or dealt.max() - dealt[free].min() <= 1


def test_camera_balance_is_off_by_default_and_a_function_of_the_epoch():
    cams = np.tile([1, 2, 2, 2, 2, 2], 11), np.tile([3, 3, 6], 33)
    plain, balanced = (CrossModalPKBatchSampler(*LABELS, p=3, k=2, cameras=c) for c in (None, cams))
    first = list(balanced)
    assert list(plain) != first
    assert all({cams[0][v] for v, _ in batch[n : n + 2]} == {1, 2} for batch in first for n in (0, 2, 4))
    assert all({cams[1][i] for _, i in batch[n : n + 2]} == {3, 6} for batch in first for n in (0, 2, 4))
    balanced.set_epoch(0)
    assert list(balanced) == first


def test_bad_cameras():
    with pytest.raises(ValueError, match="mode 'official' draws as published"):
        CrossModalPKBatchSampler(*LABELS, mode="official", cameras=LABELS)
    with pytest.raises(ValueError, match="one camera per image"):
        CrossModalPKBatchSampler(*LABELS, cameras=(LABELS[0], LABELS[0]))


def test_bad_input():
    with pytest.raises(ValueError, match="one modality only"):
        CrossModalPKBatchSampler([0, 1, 2], [0, 1], p=2, k=1)
    assert len(CrossModalPKBatchSampler([0, 1, 2], [0, 1], p=2, k=1, drop_unpaired=True)) > 0
    with pytest.raises(ValueError, match=r"p=12 .*: set p to at most \d+$"):
        CrossModalPKBatchSampler(*LABELS, p=12)
    with pytest.raises(ValueError, match="unknown mode"):
        CrossModalPKBatchSampler(*LABELS, mode="random")
    with pytest.raises(ValueError, match="p=0, k=4"):
        CrossModalPKBatchSampler(*LABELS, p=0)
    with pytest.raises(ValueError, match="no identity has images of both"):
        CrossModalPKBatchSampler([0], [1], p=1, k=1, drop_unpaired=True)
    with pytest.raises(ValueError, match="rank 2"):
        CrossModalPKBatchSampler(*LABELS, rank=2, world_size=2)
