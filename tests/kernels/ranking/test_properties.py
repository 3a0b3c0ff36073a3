"""What holds for every ranking: permutations, bounds, agreement of the two evaluators, clear errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.ranking import (
    LLCM,
    LLCM_STRICT,
    REGDB,
    SYSU,
    Protocol,
    rank_distances,
    rank_features,
    rank_trials,
    rerank,
)
from septet.kernels.ranking.reference import rank_distances as readable

PROTOCOLS = [SYSU, REGDB, LLCM, LLCM_STRICT]
TIES = ["stable", "optimistic", "pessimistic"]


def random_case(seed, queries=13, gallery=29, people=6):
    r = np.random.default_rng(seed)
    q, g = (torch.from_numpy(r.standard_normal((n, 8)).astype(np.float32)) for n in (queries, gallery))

    labels = [torch.from_numpy(r.integers(0, people, n)) for n in (queries, gallery)]
    labels[0][0] = labels[1][0]
    cams = torch.from_numpy(r.choice([3, 6], queries)), torch.from_numpy(r.choice([1, 2, 4, 5], gallery))
    return q, g, labels[0], labels[1], cams[0], cams[1]


def same(a, b):
    torch.testing.assert_close(a.rank, b.rank, rtol=0, atol=0)
    torch.testing.assert_close(a.ap, b.ap, equal_nan=True)
    torch.testing.assert_close(a.inp, b.inp, equal_nan=True)
    torch.testing.assert_close(a.cmc, b.cmc)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PROTOCOLS), st.sampled_from(TIES), st.booleans())
def test_features_distances_and_the_readable_form_agree(seed, protocol, ties, coarse):
    q, g, *labels = random_case(seed)
    if coarse:
        q, g = q.round(), g.round()
    options = {"protocol": protocol, "ties": ties}
    distance = -(q @ g.T)
    expected = readable(distance, *labels, **options)
    same(rank_features(q, g, *labels, chunk=5, **options), expected)
    same(rank_distances(distance, *labels, **options), expected)
    same(rank_distances(distance.numpy(), *(a.numpy() for a in labels), **options), expected)
    assert bool((expected.cmc.diff() >= 0).all())
    assert 0 < expected.mINP <= 1
    assert 0 < expected.mAP <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PROTOCOLS))
def test_the_order_of_the_gallery_does_not_matter(seed, protocol):
    q, g, qid, gid, qcam, gcam = random_case(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(g)))
    one = rank_features(q, g, qid, gid, qcam, gcam, protocol=protocol)
    same(rank_features(q, g[order], qid, gid[order], qcam, gcam[order], protocol=protocol), one)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PROTOCOLS))
def test_trials_equal_single_evaluations(seed, protocol):
    q, g, qid, gid, qcam, gcam = random_case(seed)
    r = np.random.default_rng(seed)
    galleries = [np.concatenate([[0], 1 + r.permutation(28)[:11]]) for _ in range(3)]
    trials = rank_trials(q, g, qid, gid, qcam, gcam, galleries, protocol=REGDB, chunk=4)
    for at, result in zip(galleries, trials, strict=True):
        same(result, rank_features(q, g[at], qid, gid[at], qcam, gcam[at], protocol=REGDB))


def test_perfect_and_worst_rankings():
    ids = torch.tensor([0, 1, 2])
    perfect = rank_distances(1 - torch.eye(3), ids, ids, protocol=REGDB)
    worst = rank_distances(torch.eye(3), ids, ids, protocol=REGDB)
    assert (perfect.mAP, perfect.mINP, float(perfect.cmc[0])) == (1.0, 1.0, 1.0)
    assert (worst.mAP, float(worst.cmc[0]), float(worst.cmc[2])) == (pytest.approx(1 / 3), 0.0, 1.0)
    assert len(worst.cmc) == 20


@pytest.mark.parametrize("camera", [3, 6])
def test_queries_of_one_camera_only(camera):
    q, g, qid, gid, qcam, gcam = random_case(2)
    cams = torch.full_like(qcam, camera)
    expected = readable(-(q @ g.T), qid, gid, cams, gcam, protocol=SYSU)
    same(rank_features(q, g, qid, gid, cams, gcam, protocol=SYSU), expected)


def test_infinite_distances_are_far_but_not_excluded():
    distance = torch.tensor([[0.0, float("inf")]])
    result = rank_distances(distance, [1], [0, 1], protocol=REGDB)
    assert result.rank.tolist() == [1]


def test_bad_input():
    q, g, qid, gid, qcam, gcam = random_case(0)
    broken = q.clone()
    broken[3, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN in rows \[3\]"):
        rank_features(broken, g, qid, gid, qcam, gcam, protocol=SYSU)
    with pytest.raises(ValueError, match="has a match"):
        rank_features(q, g, qid + 100, gid, qcam, gcam, protocol=SYSU)
    with pytest.raises(ValueError, match="give query_cams"):
        rank_features(q, g, qid, gid, protocol=SYSU)
    with pytest.raises(ValueError, match="unknown ties 'fair'"):
        rank_features(q, g, qid, gid, protocol=REGDB, ties="fair")
    with pytest.raises(ValueError, match="shape"):
        rank_distances(torch.zeros(2, 3), qid, gid, protocol=REGDB)
    with pytest.raises(ValueError, match="topk=0"):
        rank_features(q, g, qid, gid, protocol=REGDB, topk=0)
    with pytest.raises(ValueError, match="unknown exclude"):
        Protocol("x", "all", "identity")
    with pytest.raises(ValueError, match="k1=50"):
        rerank(q, g, k1=50)
    with pytest.raises(ValueError, match="weight=2"):
        rerank(q, g, k1=3, k2=2, weight=2)
    with pytest.raises(ValueError, match="NaN"):
        rerank(broken, g, k1=3, k2=2)


def test_reranking_with_weight_one_keeps_the_order():
    q, g, *_ = random_case(1)
    ours = rerank(q, g, k1=5, k2=2, weight=1.0)
    distance = torch.cdist(q, g)
    assert torch.equal(ours.argsort(1), distance.argsort(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_on_a_gpu(protocol):
    q, g, *labels = random_case(5)
    q, g = q.round(), g.round()
    same(rank_features(q.cuda(), g.cuda(), *labels, protocol=protocol), rank_features(q, g, *labels, protocol=protocol))
