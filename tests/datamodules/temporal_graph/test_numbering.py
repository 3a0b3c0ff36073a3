"""Predictions are asked and answered in the ids of the stream's own file, and exact times make exact splits."""

import types

import numpy as np
import pytest
import torch

from septet.datamodules.temporal_graph import EventStream, TemporalGraphEvents, read_events
from septet.datamodules.temporal_graph.predictions import asked_pairs
from septet.datamodules.temporal_graph.splits import tgb_split
from septet.lightning_modules.cne_n import CNEN

RNG = np.random.default_rng(3)
PAIRS = RNG.integers(0, 20, (200, 2))
JODIE = "user_id,item_id,timestamp,state_label,f\n"


def rows(shift_u: int, shift_i: int, tail: str = "") -> str:
    return "".join(f"{u + shift_u},{i + shift_i},{10 * t}{tail}\n" for t, (u, i) in enumerate(PAIRS))


def features(tmp_path, text: str, ask: str, **settings: object) -> tuple[TemporalGraphEvents, object]:
    (tmp_path / "events.csv").write_text(text)
    (tmp_path / "ask.csv").write_text(ask)
    data = TemporalGraphEvents(
        source="auto", path=str(tmp_path / "events.csv"), predict_path=str(tmp_path / "ask.csv"), **settings
    )
    return data, data.predict_dataloader().dataset.links


def answers(data: TemporalGraphEvents, links: object) -> list[tuple[object, object]]:
    model = CNEN(net={"node_dim": 8, "edge_dim": 8, "time_dim": 8, "channel_dim": 4})
    model.configure_model()
    model._trainer = types.SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    batch = links.batch(torch.arange(len(links.time)))  # type: ignore[attr-defined]
    return [(row["u"], row["i"]) for row in model.predict_step(batch, 0)]


@pytest.mark.parametrize("shift", [0, 1, 500])
@pytest.mark.parametrize("compact", [False, True])
def test_scores_do_not_depend_on_the_first_id(tmp_path, shift: int, compact: bool) -> None:
    header, asked = "u,i,ts\n", [(3, 5), (7, 11)]
    text = header + rows(shift, shift)
    data, links = features(
        tmp_path, text, header + "".join(f"{u + shift},{i + shift},2000\n" for u, i in asked), compact=compact
    )
    first = 1 if shift != 500 or compact else 500
    assert (links.pair_src[:, 0] - first).tolist() == [3, 7]
    assert (links.pair_dst[:, 0] - first).tolist() == [5, 11]
    assert answers(data, links) == [(u + shift, i + shift) for u, i in asked]
    whole = TemporalGraphEvents(source="auto", path=data.path, compact=compact)
    at = whole.stream.numbering.outer(whole.stream.dst, "dst")
    assert at == (PAIRS[:, 1] + shift).tolist()


@pytest.mark.parametrize("compact", [False, True])
def test_users_and_items_keep_their_own_ids(tmp_path, compact: bool) -> None:
    data, links = features(tmp_path, JODIE + rows(0, 0, ",0,0.5"), "u,i,ts\n3,5,2000\n0,0,2000\n", compact=compact)
    assert links.pair_src[:, 0].tolist() == [4, 1]
    assert links.pair_dst[:, 0].tolist() == [26, 21]
    assert answers(data, links) == [(3, 5), (0, 0)]
    (tmp_path / "ask.csv").write_text(JODIE + "20,5,2000,0,0\n")
    with pytest.raises(ValueError, match=r"ask\.csv: source 20 of pair 0 occurs in no event"):
        asked_pairs(data.stream, str(tmp_path / "ask.csv"))


def test_names_of_a_tgb_list_are_asked_by_name(tmp_path) -> None:
    text = "time,src,dst,weight\n" + "".join(f"{t},n{u},n{i},1\n" for t, (u, i) in enumerate(PAIRS))
    (tmp_path / "coin_edgelist.csv").write_text(text)
    (tmp_path / "ask.csv").write_text("u,i,ts\nn3,n5,300\n")
    data = TemporalGraphEvents(source="tgb", path=str(tmp_path), predict_path=str(tmp_path / "ask.csv"))
    links = data.predict_dataloader().dataset.links
    assert answers(data, links) == [("n3", "n5")]
    (tmp_path / "ask.csv").write_text("u,i,ts\nn3,n5,300\nn3,who,300\n")
    with pytest.raises(ValueError, match=r"ask\.csv, line 3: the stream has no node 'who'"):
        data.predict_dataloader()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ("40,2,2000\n", "source 40 of pair 0 occurs in no event"),
        ("1,2,2000\n1,999,2000\n", "destination 999 of pair 1 occurs in no event"),
        ("1,2,2000.5\n", "time 2000.5 of pair 0 is no whole number"),
        ("1,2,2000\n1,2,1999\n", "line 3: times decrease"),
    ],
)
def test_pairs_that_cannot_be_asked(tmp_path, ask: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        features(tmp_path, "u,i,ts\n" + rows(0, 0), f"u,i,ts\n{ask}")


def test_nanoseconds_and_large_ids_are_not_rounded(tmp_path) -> None:
    start = 1_700_000_000_000_000_000
    path = tmp_path / "ns.csv"
    path.write_text("u,i,ts\n" + "".join(f"{2**60 + t % 7},{2**60 + t % 5},{start + 3 * t}\n" for t in range(100)))
    stream = read_events(path, compact=True)
    assert stream.time.tolist() == [start + 3 * t for t in range(100)]
    assert stream.nodes == 7
    assert stream.numbering.outer(stream.src[:2], "src") == [2**60, 2**60 + 1]
    assert [len(part) for part in tgb_split(stream)[:3]] == [70, 15, 15]
    with pytest.raises(ValueError, match="number the ids anew"):
        read_events(path)


def test_splits_compare_whole_times_exactly() -> None:
    time = torch.arange(100) + 1_300_000_000  # float32 tells only every 128th second apart
    stream = EventStream(torch.arange(100) % 7 + 1, torch.arange(100) % 5 + 1, time)
    assert [len(part) for part in tgb_split(stream)[:3]] == [70, 15, 15]
