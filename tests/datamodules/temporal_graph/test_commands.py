"""The data commands: generate, prepare, verify and what fetch says."""

import pytest

from septet.datamodules.temporal_graph import read_events
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
