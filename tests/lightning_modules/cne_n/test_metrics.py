"""Metrics equal the golden values, scikit-learn, and themselves over two processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.hashing.streams import load

from septet.lightning_modules.cne_n.metrics import (
    BatchMeanAUROC,
    BatchMeanAveragePrecision,
    GlobalAUROC,
    GlobalAveragePrecision,
    HitsAtK,
    MeanReciprocalRank,
    area_under_roc,
    average_precision,
    ranks,
)


def test_batch_means_and_global_values() -> None:
    data = load("metrics.npz")
    metrics = {
        "mean_ap": BatchMeanAveragePrecision(),
        "mean_auc": BatchMeanAUROC(),
        "global_ap": GlobalAveragePrecision(),
        "global_auc": GlobalAUROC(),
    }
    sizes = data["batch_sizes"].tolist()
    for b, (pred, target) in enumerate(zip(data["pred"].split(sizes), data["target"].split(sizes), strict=True)):
        assert average_precision(pred, target).item() == pytest.approx(data["batch_ap"][b].item(), abs=1e-6)
        assert area_under_roc(pred, target).item() == pytest.approx(data["batch_auc"][b].item(), abs=1e-6)
        for metric in metrics.values():
            metric.update(pred, target)
    for name, metric in metrics.items():
        assert metric.compute().item() == pytest.approx(data[name].item(), abs=1e-6)


def test_ranks() -> None:
    data = load("metrics.npz")
    assert torch.equal(ranks(data["pos"], data["neg"]), data["rank"])
    for name, metric in {
        "mrr": MeanReciprocalRank(),
        "hits1": HitsAtK(1),
        "hits3": HitsAtK(3),
        "hits10": HitsAtK(10),
    }.items():
        for part in (slice(0, 40), slice(40, None)):
            metric.update(data["pos"][part], data["neg"][part])
        assert metric.compute().item() == pytest.approx(data[name].item(), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40))
@settings(max_examples=50, deadline=None)
def test_equal_to_scikit_learn(rows: list) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    pred, target = torch.tensor([float(r[0]) for r in rows]), torch.tensor([r[1] for r in rows])
    if 0 < int(target.sum()) < len(target):
        assert float(average_precision(pred, target)) == pytest.approx(sklearn.average_precision_score(target, pred))
        assert float(area_under_roc(pred, target)) == pytest.approx(sklearn.roc_auc_score(target, pred))


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ([0.1, float("nan")], [0, 1], "a score is NaN"),
        ([0.1, 0.2], [0, 0], "both classes are needed"),
        ([0.1, 0.2], [0, 1, 1], "must be two"),
    ],
)
def test_bad_scores(pred: list, target: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(torch.tensor(pred), torch.tensor(target))


def test_bad_ranks() -> None:
    with pytest.raises(ValueError, match="k=0"):
        HitsAtK(0)
    with pytest.raises(ValueError, match=r"must be \(B,\) and \(B, K\)"):
        ranks(torch.zeros(3), torch.zeros(2, 4))
