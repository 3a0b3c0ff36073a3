"""Settings that can never work are refused before training, in one line."""

import re
import types

import pytest
import torch

from septet.datamodules.temporal_graph import StructureSpec, TemporalGraphEvents
from septet.lightning_modules.cne_n import CNEN
from septet.lightning_modules.cne_n.baselines import EdgeBankBaseline, LinkBaseline
from septet.lightning_modules.cne_n.pictures import by_epoch


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"foo": 3}, "net.foo is no setting of CNENet: choose among node_dim"),
        ({"time_dim": -3}, "net.time_dim=-3: give a whole number of at least 1"),
        ({"time_dim": "abc"}, "net.time_dim='abc': give a whole number"),
        ({"num_layers": True}, "net.num_layers=True: give a whole number"),
        ({"dropout": 1.5}, "net.dropout=1.5 is outside [0, 1)"),
    ],
)
def test_net_of_cne_n(net: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CNEN(net=net)


@pytest.mark.parametrize(
    ("name", "net", "message"),
    [
        ("tgn", {"num_nodes": 3}, "net.num_nodes is no setting of TGN"),
        ("tgn", {"heads": 3, "time_dim": 100}, "query width 272 is not divisible by 3 heads"),
        ("dygformer", {"heads": 3}, "cannot be built: embed_dim must be divisible by num_heads"),
        ("graphmixer", {"tokens": 0}, "net.tokens=0: give a whole number"),
    ],
)
def test_net_of_the_baselines(name: str, net: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LinkBaseline(name, net=net)


def test_checking_draws_nothing() -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    CNEN()
    assert torch.equal(torch.rand(3), want)


def test_a_record_needs_no_network() -> None:
    for model in (CNEN(), LinkBaseline("tgn")):
        model._trainer = types.SimpleNamespace(datamodule=None)  # type: ignore[assignment]
        assert "params" not in model.record_fields()["model"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "tgn",
            {"structure": StructureSpec(length=10)},
            "reads sequences of 11, the data module gives 10: set data.init_args.structure.length to 11",
        ),
        (
            "graphmixer",
            {"structure": None, "length": 20},
            "reads sequences of 21, the data module gives 20: set data.init_args.length to 21",
        ),
    ],
)
def test_lengths_of_the_baselines(name: str, settings: dict[str, object], message: str) -> None:
    model = LinkBaseline(name)
    data = TemporalGraphEvents(generator={"num_nodes": 30, "num_events": 200}, **settings)
    model._trainer = types.SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=re.escape(message)):
        model.setup("fit")


def test_edgebank_is_not_trained() -> None:
    with pytest.raises(ValueError, match=r"EdgeBank is training-free: septet test -c configs/cne_n/edgebank_uci\.yaml"):
        EdgeBankBaseline().setup("fit")


def test_epochs_of_the_picture_count_as_the_log() -> None:
    figure = by_epoch([{"epoch": float(e), "ap": 0.5, "auc": 0.5} for e in range(3)])
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 1, 2]
