"""The data commands: generate, prepare, verify and what fetch says."""

import numpy as np
import pytest
import torch

from septet.datamodules.temporal_graph import read_events
from septet.datamodules.temporal_graph.columns import write_columns
from septet.datamodules.temporal_graph.commands import main


def test_generate_prepare_verify(tmp_path, capsys) -> None:
    made, again = tmp_path / "made.npz", tmp_path / "again.npz"
    assert main("generate", ["--out", str(made), "--nodes", "40", "--events", "300"]) == 0
    assert main("prepare", [str(made), "--out", str(again), "--relative-time", "--compact"]) == 0
    assert main("verify", [str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "300 events" in out
    assert "sum not recorded" in out
    assert int(read_events(again).time[0]) == 0


def test_wrong_sums_name_both(tmp_path) -> None:
    path = tmp_path / "uci.npz"
    main("generate", ["--out", str(path), "--nodes", "40", "--events", "300"])
    with pytest.raises(ValueError, match=r"sha256 .*, expected 5568fafd"):
        main("verify", [str(path)])
    with pytest.raises(ValueError, match="expected 00"):
        main("prepare", [str(path), "--out", str(tmp_path / "x.npz"), "--sha256", "00"])


def test_fetch_guesses_no_address(tmp_path, capsys) -> None:
    assert main("fetch", ["uci"]) == 0
    assert "published by SNAP" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown event set 'imdb'"):
        main("fetch", ["imdb"])
    (tmp_path / "source.csv").write_text("u,i,ts\n1,2,0\n")
    address = (tmp_path / "source.csv").as_uri()
    assert main("fetch", ["reddit", "--url", address, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "reddit.csv").read_text().startswith("u,i,ts")
    with pytest.raises(ValueError, match="expected 27f2"):
        main("fetch", ["uci", "--url", address, "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="unknown action 'delete'"):
        main("delete", [])


def test_nothing_is_overwritten_or_mixed(tmp_path) -> None:
    folder = tmp_path / "cols"
    assert main("generate", ["--nodes", "40", "--events", "300", "--out", str(folder)]) == 0
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    for action, argv in (("prepare", [str(folder), "--out", str(folder)]), ("generate", ["--out", str(folder)])):
        with pytest.raises(ValueError, match="is the input" if action == "prepare" else "is not empty"):
            main(action, argv)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept
    (tmp_path / "file").write_text("x")
    for out, message in (("file", "is a file"), ("events.csv", "only archives"), ("file/below", "temporal_graph: ")):
        with pytest.raises(ValueError, match=message):
            main("prepare", [str(folder), "--out", str(tmp_path / out)])
    for kind in ("powerlaw", "synthetic"):
        with pytest.raises(ValueError, match="num_nodes=1"):
            main("generate", ["--kind", kind, "--nodes", "1", "--out", str(tmp_path / "none")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cols", "file"]


def test_columns_appear_when_they_are_whole(tmp_path) -> None:
    def chunks():
        yield np.ones((3, 4), dtype=np.int64)
        assert not (tmp_path / "half").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_columns(tmp_path / "half", chunks(), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["mine.npz", "mine"])
def test_prepare_keeps_features(tmp_path, out: str) -> None:
    (tmp_path / "ml_a.csv").write_text(",u,i,ts,label,idx\n0,1,2,5,0,1\n1,2,1,6,1,2\n")
    np.save(tmp_path / "ml_a.npy", np.arange(6.0).reshape(3, 2))
    np.save(tmp_path / "ml_a_node.npy", np.arange(9.0).reshape(3, 3))
    assert main("prepare", [str(tmp_path / "ml_a.csv"), "--out", str(tmp_path / out)]) == 0
    want, got = read_events(tmp_path / "ml_a.csv"), read_events(tmp_path / out)
    for name in ("edge_feat", "node_feat", "label"):
        assert torch.equal(getattr(got, name), getattr(want, name))


def test_verify_says_when_there_is_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no event files"):
        main("verify", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="no event file"):
        main("verify", [str(tmp_path / "absent")])
    (tmp_path / "a.tsv").write_text("u\ti\tts\n1\t2\t3\n")
    with pytest.raises(ValueError, match=r"a\.tsv: line 1"):
        main("verify", [str(tmp_path / "a.tsv")])
