"""Readers, the stream type and the generators."""

import gzip

import numpy as np
import pytest
import torch
from tests.support.paths import shared_data

from septet.datamodules.temporal_graph import EventStream, powerlaw_events, read_events, synthetic_events


@pytest.mark.parametrize(
    ("text", "archive", "relative"),
    [
        ("CollegeMsg.txt.gz", "uci", True),
        ("ml_enron.csv.gz", "enron", False),
        ("wikipedia_nofeat.csv.gz", "wikipedia", False),
        ("soc-sign-bitcoinotc.csv.gz", "bitcoinotc", False),
        ("soc-sign-bitcoinalpha.csv.gz", "bitcoinalpha", False),
    ],
)
def test_text_equals_archive(text: str, archive: str, relative: bool) -> None:
    one = read_events(shared_data(f"temporal_graph/{text}"), relative_time=relative)
    two = read_events(shared_data(f"temporal_graph/{archive}.npz"))
    assert torch.equal(one.src, two.src)
    assert torch.equal(one.dst, two.dst)
    assert torch.equal(one.time, two.time)
    assert two.name == archive


def test_csv_of_a_user(tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ts,u,i\n1.5,0,3\n2.5,3,7\n")
    stream = read_events(path)
    assert stream.src.tolist() == [1, 4]
    assert stream.time.tolist() == [1.5, 2.5]
    assert stream.nodes == 8
    assert read_events(path, compact=True).dst.tolist() == [2, 3]
    with pytest.raises(ValueError, match="node id 0 is below id_base=1"):
        read_events(path, id_base=1)


def test_jodie_and_dyglib(tmp_path) -> None:
    jodie = tmp_path / "web.csv.gz"
    with gzip.open(jodie, "wt") as file:
        file.write("user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n")
        file.write("0,0,0,0,0.5,1.0\n1,1,10,1,0,2.0\n")
    stream = read_events(jodie)
    assert stream.dst.tolist() == [3, 4]
    assert stream.edge_feat.shape == (3, 172)
    assert stream.edge_feat[2, 1] == 2.0
    assert stream.label.tolist() == [0, 1]
    (tmp_path / "ml_toy.csv").write_text(",u,i,ts,label,idx\n0,1,2,0.0,0,1\n1,2,3,5.0,0,2\n")
    np.save(tmp_path / "ml_toy.npy", np.arange(9.0).reshape(3, 3))
    np.save(tmp_path / "ml_toy_node.npy", np.zeros((4, 172)))
    toy = read_events(tmp_path / "ml_toy.csv")
    assert toy.name == "toy"
    assert toy.edge_feat[1, :3].tolist() == [3.0, 4.0, 5.0]
    assert toy.node_feat is None


def test_parquet(tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"u": [1, 2], "i": [2, 1], "ts": [0, 4]}), tmp_path / "mine.parquet")
    assert read_events(tmp_path / "mine.parquet").time.tolist() == [0, 4]


def test_temporal_data_and_back() -> None:
    pytest.importorskip("torch_geometric")
    stream = synthetic_events(20, 50)
    stream.edge_feat = torch.rand(51, 3) * (torch.arange(51) > 0).unsqueeze(1)
    back = EventStream.from_temporal_data(stream.to_temporal_data())
    assert torch.equal(back.src, stream.src)
    assert torch.equal(back.time, stream.time)
    assert torch.equal(back.edge_feat, stream.edge_feat)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [2, 1], [5, 4]), "sort by time, stable"),
        (([1, 2], [2, 1], [0.0, float("nan")]), "time 1 is NaN"),
        (([0, 2], [2, 1], [0, 1]), "src holds node id 0"),
        (([1, 2], [2, 9], [0, 1], 3), "dst holds node id 9, above num_nodes=3"),
        (([1, 2], [2], [0, 1]), "unequal lengths"),
        (([1.5, 2], [2, 1], [0, 1]), "node ids are integers"),
        (([], [], []), "no events"),
        (([1], [1], [0], 1, [[0.0], [float("nan")]]), "edge_feat row 1 holds NaN"),
        (([1], [1], [0], 1, None, [[0.0], [float("nan")]]), "node_feat row 1 holds NaN"),
        (([1], [1], [0], 1, [[0.0]]), r"expected \(2, F\)"),
    ],
)
def test_bad_streams(columns: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventStream(*[c if c is None or isinstance(c, int) else torch.tensor(c) for c in columns])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u,i,ts\n1,2,5\n2,1,3\n", "sort by time, stable"),
        ("u,i,ts\n1,2,0\n2,1,nan\n", "time of event 1 is NaN"),
        ("u,i,ts\n1,-2,0\n", "node id -2 is negative"),
        ("u,i\n1,2\n", "none of the columns ts"),
        ("u,i,ts\n1,2,soon\n", "every event row must hold numbers"),
    ],
)
def test_bad_csv(tmp_path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_events(tmp_path / "bad.csv")


def test_bad_paths(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="check the path"):
        read_events(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="unknown format 'xls'"):
        read_events(tmp_path, "xls")
    np.savez(tmp_path / "half.npz", src=[1], dst=[2])
    with pytest.raises(ValueError, match="array 't' is missing"):
        read_events(tmp_path / "half.npz")
    with pytest.raises(ValueError, match="id_base=2"):
        read_events(tmp_path / "half.npz", id_base=2)


def test_sparse_ids_are_warned_about() -> None:
    stream = EventStream(torch.tensor([1]), torch.tensor([1_000_000]), torch.tensor([0]))
    with pytest.warns(UserWarning, match="compact=True"):
        stream.warn_if_sparse()


def test_synthetic_streams_are_seeded() -> None:
    one, two, other = (synthetic_events(50, 500, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.dst, two.dst)
    assert not torch.equal(one.dst, other.dst)
    assert not (one.src == one.dst).any()
    assert (one.time[1:] == one.time[:-1]).any()
    big = powerlaw_events(1000, 20_000, seed=1)
    assert len(big) == 20_000
    assert int(big.src.max()) <= 1000
    assert not (big.src == big.dst).any()
    with pytest.raises(ValueError, match="unknown rate 'speed'"):
        synthetic_events(speed=1.0)
    with pytest.raises(ValueError, match="num_nodes=1"):
        powerlaw_events(num_nodes=1)
    with pytest.raises(ValueError, match="num_events=0"):
        synthetic_events(num_events=0)
