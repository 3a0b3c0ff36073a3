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


def test_bad_input():
    with pytest.raises(ValueError, match="one modality only"):
        CrossModalPKBatchSampler([0, 1, 2], [0, 1], p=2, k=1)
    assert len(CrossModalPKBatchSampler([0, 1, 2], [0, 1], p=2, k=1, drop_unpaired=True)) > 0
    with pytest.raises(ValueError, match="p=12"):
        CrossModalPKBatchSampler(*LABELS, p=12)
    with pytest.raises(ValueError, match="unknown mode"):
        CrossModalPKBatchSampler(*LABELS, mode="random")
    with pytest.raises(ValueError, match="rank 2"):
        CrossModalPKBatchSampler(*LABELS, rank=2, world_size=2)
