"""Kinds of events, ages, ranks by number of negatives, and the pictures that show them."""

import pytest
import torch
from tests.lightning_modules.cne_n.test_module import NET, data, fit, trainer

from septet.datamodules.temporal_graph import EventStream
from septet.lightning_modules.cne_n import CNEN
from septet.lightning_modules.cne_n.breakdown import (
    COUNTS,
    GroupedScores,
    ReciprocalRankByCount,
    age_quarters,
    edge_kinds,
)
from septet.lightning_modules.cne_n.metrics import area_under_roc, average_precision


def test_kinds_and_ages_of_events() -> None:
    src, dst = torch.tensor([1, 2, 1, 3, 2]), torch.tensor([2, 1, 2, 1, 1])
    stream = EventStream(src, dst, torch.tensor([0, 0, 5, 6, 9]))
    assert edge_kinds(stream).tolist() == [1, 1, 0, 1, 0]  # a tie is no earlier meeting, the direction does not matter
    ages = age_quarters(stream, torch.tensor([2, 3, 4]))
    assert ages.tolist() == [-1, -1, 1, 0, 3]


def test_grouped_scores_equal_the_metrics_of_each_group() -> None:
    g = torch.Generator().manual_seed(0)
    scores, group = torch.rand(30, 3, generator=g), torch.randint(-1, 2, (30,), generator=g)
    scores[4, 2] = torch.nan
    metric = GroupedScores(3)
    for part in (slice(0, 11), slice(11, 30)):
        metric.update(scores[part], group[part])
    found = metric.compute()
    for number in (0, 1):
        mine = scores[group == number]
        target = torch.zeros_like(mine, dtype=torch.int64)
        target[:, 0] = 1
        present = ~torch.isnan(mine)
        assert found[number, 0] == average_precision(mine[present], target[present])
        assert found[number, 1] == area_under_roc(mine[present], target[present])
        assert found[number, 2] == len(mine)
    assert torch.isnan(found[2, :2]).all()


def test_reciprocal_rank_by_number_of_negatives() -> None:
    metric = ReciprocalRankByCount()
    metric.update(torch.tensor([1.0, 1.0]), torch.tensor([[0.0] * 5, [2.0] * 5]))
    found = dict(zip(COUNTS, metric.compute().tolist(), strict=True))
    assert found[1] == pytest.approx((1 + 1 / 2) / 2)
    assert found[2] == pytest.approx((1 + 1 / 3) / 2)
    assert found[5] == pytest.approx((1 + 1 / 6) / 2)
    assert found[10] != found[10]
    short = ReciprocalRankByCount()
    short.update(torch.tensor([1.0, 1.0]), torch.tensor([[2.0, torch.nan, torch.nan], [0.0, 0.0, 0.0]]))
    assert short.compute()[:2].tolist() == [pytest.approx((1 / 2 + 1) / 2), 1.0]


def test_shorter_lists_do_not_enter_the_rank(tmp_path) -> None:
    source = data(num_negatives=3)
    source.setup()
    links = source.evaluation_links("test")
    model = CNEN(net=NET)
    full = trainer(tmp_path / "a").test(model, source, verbose=False)[0]
    links.pair_dst[:, 2:] = 0
    short = trainer(tmp_path / "b").test(model, source, verbose=False)[0]
    assert short["test/mrr"] > full["test/mrr"]


def test_test_tells_strategies_kinds_and_ages_apart(tmp_path) -> None:
    model = CNEN(net=NET, lr=1e-2)
    t = fit(tmp_path, model, max_epochs=2)
    assert (tmp_path / "media" / "ap_auc_by_epoch.png").exists()
    result = t.test(model, data(num_negatives=5, test_negatives=["historical", "inductive"]), verbose=False)[0]
    for name in ("historical_ap", "inductive_auc", "historical_mrr", "repeated_ap_global", "first_auc_global"):
        assert 0 < result[f"test/{name}"] <= 1
    plain = t.test(model, data(num_negatives=5), verbose=False)[0]
    assert plain["test/ap"] == result["test/ap"]
    assert "test/historical_ap" not in plain
    named = trainer(tmp_path / "h").test(model, data(num_negatives=5, negatives="historical"), verbose=False)[0]
    assert named["test/ap"] == pytest.approx(result["test/historical_ap"], abs=1e-6)
    drawn = {p.stem for p in (tmp_path / "media").glob("*.png")}
    assert drawn >= {
        "ap_by_negatives_and_nodes",
        "repeated_and_first_meetings",
        "ap_by_node_age",
        "mrr_by_number_of_negatives",
        "table_occupancy",
    }
