from __future__ import annotations

import multiprocessing
import re

import pytest

from septet.launch.runs import Ledger, create_run, find_run


def test_new_run_has_its_folders(tmp_path):
    run = create_run(tmp_path, "cne_n", "smoke")
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run.name)
    assert run.parent == tmp_path / "cne_n" / "smoke"
    assert all((run / f).is_dir() for f in ("checkpoints", "media", "env"))


def test_a_given_id_resumes(tmp_path):
    assert create_run(tmp_path, "cne_n", "smoke", "a1") == create_run(tmp_path, "cne_n", "smoke", "a1")


def test_a_new_run_refuses_history(tmp_path, monkeypatch):
    monkeypatch.setattr("septet.launch.runs.new_run_id", lambda: "same")
    create_run(tmp_path, "cne_n", "smoke")
    with pytest.raises(FileExistsError, match="same"):
        create_run(tmp_path, "cne_n", "smoke")


def test_unwritable_root_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        create_run(tmp_path / "file", "cne_n", "smoke")


def test_find_run_by_id_name_and_folder(tmp_path):
    for run_id in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        (create_run(tmp_path, "cne_n", "uci", run_id) / "config.yaml").write_text("")
    newest = tmp_path / "cne_n/uci/20260102-000000-bbbb"
    assert find_run("cne_n/uci", tmp_path) == newest.resolve()
    assert find_run("20260101-000000-aaaa", tmp_path).name == "20260101-000000-aaaa"
    assert find_run(str(newest), tmp_path) == newest.resolve()
    with pytest.raises(ValueError, match="did you mean 'cne_n/uci'"):
        find_run("cne_n/ucy", tmp_path)


def _record(run_id: str, stage: str = "test", **more):
    return {"run_id": run_id, "stage": stage, "method": "cne_n", "dataset": "uci", "finished": run_id, **more}


def test_ledger_replaces_a_repeat_and_filters(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(_record("a", value=1))
    ledger.add(_record("a", value=2))
    ledger.add(_record("b", dataset={"name": "enron"}))
    assert [r.get("value") for r in ledger.rows(dataset="uci")] == [2]
    assert [r["run_id"] for r in ledger.rows(method="cne_n")] == ["a", "b"]
    assert ledger.rows(dataset="enron")[0]["run_id"] == "b"
    with pytest.raises(ValueError, match="run_id"):
        ledger.add({"method": "x", "stage": "test"})


def test_ledger_without_wal_keeps_files(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    monkeypatch.setattr(Ledger, "_connect", lambda self: None)
    ledger.add(_record("a"))
    monkeypatch.undo()
    assert [r["run_id"] for r in Ledger(tmp_path / "ledger.sqlite").rows()] == ["a"]


def _write(path, worker):
    ledger = Ledger(path)
    for number in range(25):
        ledger.add(_record(f"{worker}-{number}"))


def test_ledger_takes_many_writers(tmp_path):
    path = tmp_path / "ledger.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, w)) for w in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({r["run_id"] for r in Ledger(path).rows()}) == 200


def test_a_failed_newest_run_does_not_hide_the_trained_one(tmp_path):
    for run_id in ("r1", "r2"):
        (create_run(tmp_path, "user", "a", run_id) / "config.yaml").write_text("model: {}")
    (tmp_path / "user/a/r1/checkpoints/last.ckpt").write_text("")
    assert find_run("user/a", tmp_path, weights=True).name == "r1"
    assert find_run("user/a", tmp_path).name == "r2"
    assert find_run("r2", tmp_path, weights=True).name == "r2"
