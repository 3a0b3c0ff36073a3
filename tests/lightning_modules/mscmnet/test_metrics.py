"""The metric: duplicates, trials, NaN."""

import pytest
import torch

from septet.kernels.ranking import REGDB, SYSU, rank_features
from septet.lightning_modules.mscmnet.metrics import ReIDMetric


def data():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(10, 4, generator=g), torch.randn(30, 4, generator=g)
    qid, gid = torch.arange(10) % 5, torch.arange(30) % 5
    qcam, gcam = torch.tensor([3, 6]).repeat(5), torch.tensor([1, 2, 4]).repeat_interleave(10)
    return q, k, qid, gid, qcam, gcam


def fill(metric, order_q=None, order_g=None):
    q, g, qid, gid, qcam, gcam = data()
    for side, order, f, i, c in ((True, order_q, q, qid, qcam), (False, order_g, g, gid, gcam)):
        index = torch.arange(len(f)) if order is None else torch.as_tensor(order)
        for part in index.split(7):
            metric.update(f[part], i[part], c[part], part, is_query=side)
    return metric


def test_equal_to_the_kernel_whatever_the_order_and_the_padding():
    q, g, qid, gid, qcam, gcam = data()
    expected = rank_features(q, g, qid, gid, qcam, gcam, protocol=SYSU)
    for metric in (
        fill(ReIDMetric(SYSU)),
        fill(ReIDMetric(SYSU), [*range(9, -1, -1), 0, 1, 2], [*range(30), 4, 4]),
    ):
        out = metric.compute()
        assert set(out) == {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP"}
        assert float(out["mAP"]) == pytest.approx(expected.mAP)
        assert float(out["rank1"]) == pytest.approx(float(expected.cmc[0]))


def test_trials_give_means_and_population_deviations():
    q, g, qid, gid, qcam, gcam = data()
    galleries = [list(range(0, 30, 2)), list(range(15)), list(range(10, 30))]
    out = fill(ReIDMetric(SYSU, galleries=galleries)).compute()
    values = [rank_features(q, g[t], qid, gid[t], qcam, gcam[t], protocol=SYSU).mAP for t in galleries]
    assert float(out["mAP"]) == pytest.approx(sum(values) / 3)
    assert float(out["mAP_std"]) == pytest.approx(float(torch.tensor(values).double().std(correction=0)))


def test_bad_input():
    metric = fill(ReIDMetric(REGDB))
    metric.update(torch.full((1, 4), float("nan")), [0], [3], [10], is_query=True)
    with pytest.raises(ValueError, match=r"query features of images \[10\] are NaN"):
        metric.compute()
    with pytest.raises(ValueError, match="names gallery images"):
        fill(ReIDMetric(REGDB, galleries=[[0, 1]]), order_g=list(range(1, 30))).compute()
    empty = ReIDMetric(REGDB)
    with pytest.raises(ValueError, match="2 features"):
        empty.update(torch.zeros(2, 4), [0], [0], [0], is_query=True)
    empty.update(torch.zeros(1, 4), [0], [0], [0], is_query=True)
    with pytest.raises(ValueError, match="gallery side has no images"):
        empty.compute()
