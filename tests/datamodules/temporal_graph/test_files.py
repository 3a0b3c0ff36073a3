"""Mapped columns, TGB's own files, and the line of a fault."""

import pickle

import numpy as np
import pytest
import torch

from septet.datamodules.temporal_graph import TemporalGraphEvents, powerlaw_events, read_events
from septet.datamodules.temporal_graph import synthetic as generators
from septet.datamodules.temporal_graph.columns import write_columns
from septet.datamodules.temporal_graph.commands import main


def test_columns_are_written_in_chunks_and_mapped(tmp_path, monkeypatch, capsys) -> None:
    want = powerlaw_events(200, 3000, seed=4)
    monkeypatch.setattr(generators, "CHUNK", 700)
    chunked = powerlaw_events(200, 3000, seed=4)
    folder = tmp_path / "power_law"
    argv = ["--kind", "powerlaw", "--nodes", "200", "--events", "3000", "--seed", "4", "--out", str(folder)]
    assert main("generate", argv) == 0
    stream = read_events(folder)
    assert stream.name == "power_law"
    for name in ("src", "dst", "time"):
        assert torch.equal(getattr(stream, name), getattr(chunked, name))
    assert len(want) == len(stream)
    stream.src[0] = 7  # copy on write: the file stays as it is
    assert torch.equal(read_events(folder).src, chunked.src)
    assert main("verify", [str(folder)]) == 0
    assert "3,000 events" in capsys.readouterr().out


def test_prepare_writes_columns_with_labels(tmp_path) -> None:
    (tmp_path / "mine.csv").write_text("u,i,ts,label\n1,2,5,0\n2,3,6,1\n")
    assert main("prepare", [str(tmp_path / "mine.csv"), "--out", str(tmp_path / "mine")]) == 0
    stream = read_events(tmp_path / "mine")
    assert stream.dst.tolist() == [2, 3]
    assert stream.label.tolist() == [0, 1]
    (tmp_path / "mine" / "t.npy").unlink()
    with pytest.raises(ValueError, match=r"column t\.npy is missing"):
        read_events(tmp_path / "mine")


def test_columns_need_the_announced_number_of_events(tmp_path) -> None:
    chunk = np.ones((3, 4), dtype=np.int64)
    with pytest.raises(ValueError, match="4 events arrived, 5 were announced"):
        write_columns(tmp_path / "few", [chunk], 5)
    with pytest.raises(ValueError, match="more than the 3 events"):
        write_columns(tmp_path / "many", [chunk], 3)
    assert list(tmp_path.iterdir()) == []  # nothing half-written
    (tmp_path / "few").mkdir()
    np.save(tmp_path / "few" / "src.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected one dimension"):
        read_events(tmp_path / "few")


def test_a_mapped_stream_trains_like_one_in_memory(tmp_path) -> None:
    main("generate", ["--kind", "powerlaw", "--nodes", "60", "--events", "900", "--out", str(tmp_path / "events")])
    settings = {"batch_size": 50, "new_node_ratio": 0.0}
    mapped = TemporalGraphEvents(
        source="npy", path=str(tmp_path / "events"), features="online", cache_dir=str(tmp_path / "cache"), **settings
    )
    plain = TemporalGraphEvents(source="powerlaw", generator={"num_nodes": 60, "num_events": 900}, **settings)
    for data in (mapped, plain):
        data.setup()
    assert plain.train_index is plain.full_index
    for a, b in zip(mapped.train_dataloader(), plain.train_dataloader(), strict=True):
        assert torch.equal(a.src_feat, b.src_feat)
        assert torch.equal(a.pair_dst, b.pair_dst)
    assert torch.equal(mapped.evaluation_links("test").dst_feat, plain.evaluation_links("test").dst_feat)


WIKI = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n0,0,0.0,0,0.5\n1,1,3.0,0,0.25\n"


def test_tgb_folder(tmp_path) -> None:
    (tmp_path / "tgbl-wiki_edgelist.csv").write_text(WIKI.replace("3.0", "2.0"))
    (tmp_path / "tgbl-wiki_edgelist_v2.csv").write_text(WIKI)
    stream = read_events(tmp_path)
    assert stream.dst.tolist() == [3, 4]
    assert stream.time.tolist() == [0, 3]
    assert read_events(tmp_path / "tgbl-wiki_edgelist.csv", "tgb").time.tolist() == [0, 2]
    coin = tmp_path / "coin"
    coin.mkdir()
    with pytest.raises(FileNotFoundError, match="unpack the archive"):
        read_events(coin, "tgb")
    (coin / "tgbl-coin_edgelist_v2.csv").write_text("time,src,dst,weight\n10,0xb,0xa,1.5\n11,0xa,0xc,2\n11,0xb,0xc,1\n")
    stream = read_events(coin)
    assert stream.src.tolist() == [1, 2, 1]
    assert stream.dst.tolist() == [2, 3, 3]
    (coin / "tgbl-coin_edgelist_v3.csv").write_text("time,src,dst,weight\n2019-01-01,a,b,1\n")
    with pytest.raises(ValueError, match=r"v3\.csv, line 2: .* is not time in seconds"):
        read_events(coin)


def test_tgb_lists_beside_the_edges_are_used(tmp_path) -> None:
    rows = [(e % 7, e % 5, e) for e in range(100)]
    text = "\n".join(f"{u},{v},{t},0,0" for u, v, t in rows)
    (tmp_path / "tgbl-toy_edgelist_v2.csv").write_text(f"user_id,item_id,timestamp,state_label,f\n{text}\n")
    lists = {(u, v + 7, t): np.array([7 + (v + 1) % 5, 7 + (v + 2) % 5][: 1 + t % 2]) for u, v, t in rows}
    for split in ("val", "test"):
        (tmp_path / f"tgbl-toy_{split}_ns_v2.pkl").write_bytes(pickle.dumps(lists))
    data = TemporalGraphEvents(source="tgb", path=str(tmp_path), protocol="tgb", num_negatives=3, batch_size=10)
    data.setup()
    links = data.evaluation_links("test")
    assert links.pair_dst.shape[1] == 3
    short = links.time % 2 == 0
    assert (links.pair_dst[short, 2] == 0).all()
    assert (links.pair_dst[~short, 2] > 7).all()
    batch = links.batch(torch.arange(4))
    assert (batch.dst.count[batch.pair_dst == 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.csv", "u,i,ts\n1,2,5\n\n2,1,3\n", r"bad\.csv, line 4: times decrease at event 1 \(3\): sort"),
        ("bad.csv", "u,i,ts\n# two\n1,2,0\n2,1,nan\n", r"bad\.csv, line 4: time of event 1 is NaN"),
        ("bad.csv", "u,i,ts\n1,2,0\n1,-2,0\n", r"bad\.csv, line 3: node id -2 is negative"),
        ("bad.csv", "u,i,ts\n1,2,0\n1.5,2,0\n", r"bad\.csv, line 3: node id 1.5 is not an integer"),
        ("bad.csv", "u,i,ts\n1,2,0\n1,2,soon\n", r"bad\.csv: line 3: .* every event row must hold numbers"),
        ("bad.txt", "1 2 7\n3 4 nan\n2 3 5\n", r"bad\.txt, line 2: time of event 2 is NaN"),
        ("web.csv", "user_id,item_id,timestamp,state_label,f\n0,0,1,0,0\n0,0,2,0\n", r"web\.csv: line 3: "),
    ],
)
def test_faults_name_their_line(tmp_path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_events(tmp_path / name)
