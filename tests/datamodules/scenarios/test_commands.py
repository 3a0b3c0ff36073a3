"""``septet data ... scenarios``: benches, stores and what is refused."""

from __future__ import annotations

import json

import pytest

from septet.datamodules.scenarios.commands import main
from septet.datamodules.scenarios.memory import MnemonicCenter, write_spool


def record(model, value, run="r"):
    return {
        "scenario": {"task": "t", "metric": "mae", "direction": "min"}, "dataset": {"name": "D"},
        "model": {"name": model}, "value": value, "provenance": {"run_id": run},
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    write_spool([record("A", 1.0), record("B", 2.0)], tmp_path / "spool", "one")
    assert main("ingest", [str(tmp_path / "spool"), "--out", str(tmp_path / "s.sqlite")]) == 0
    return tmp_path / "s.sqlite"


def test_a_spool_folder_is_taken_in_once(store, capsys):
    assert main("prepare", [str(store.parent / "spool"), "--out", str(store)]) == 0
    assert "duplicate=2" in capsys.readouterr().out
    with MnemonicCenter(store) as center:
        assert center.stats()["done"] == 2


def test_verify_says_whether_the_store_and_the_benches_are_whole(store, capsys):
    assert main("verify", [str(store)]) == 0
    assert "s.sqlite: ok" in capsys.readouterr().out
    assert main("verify", []) == 0
    assert capsys.readouterr().out.count("sum as recorded") == 4
    assert main("verify", [str(store.parent / "spool" / "one.jsonl")]) == 0
    assert "2 records, 2 keys; ok 2" in capsys.readouterr().out


def test_retract_and_export(store, tmp_path, capsys):
    with MnemonicCenter(store) as center:
        first, second = center.keys()
    assert main("retract", [str(store), first, "--reason", "wrong split"]) == 0
    assert main("retract", [str(store), second, "--as", "quarantined", "--reason", "odd"]) == 0
    assert main("export", [str(store), "--out", str(tmp_path / "o.jsonl")]) == 0
    states = {e["key"]: e["state"] for e in map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())}
    assert states == {first: "retracted", second: "quarantined"}
    assert main("retract", [str(store), first, "--as", "stale"]) == 0
    with pytest.raises(ValueError, match="no key nothing"):
        main("retract", [str(store), "nothing"])
    capsys.readouterr()


def test_generate_writes_the_synthetic_bench(tmp_path, capsys):
    assert main("generate", ["--out", str(tmp_path / "b.npz")]) == 0
    assert "20 models x 24 columns" in capsys.readouterr().out
    assert main("fetch", []) == 0
    assert "ORIGIN.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "words", "match"),
    [
        ("melt", [], "unknown action 'melt'"),
        ("ingest", ["--out", "s.sqlite"], "a folder of records or --ledger"),
        ("ingest", ["--ledger", "gone.sqlite", "--out", "s.sqlite"], "no ledger gone"),
        ("ingest", ["gone", "--out", "s.sqlite"], "no spool folder"),
        ("export", ["gone.sqlite", "--out", "o"], "no store gone"),
        ("retract", ["gone.sqlite", "k"], "no store gone"),
    ],
)
def test_wrong_calls_are_refused(tmp_path, monkeypatch, action, words, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=match):
        main(action, words)
