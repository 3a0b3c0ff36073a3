"""The mnemonic center: claims, records, merging, spool files, recovery."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import time

import numpy as np
import pytest
from tests.support.paths import golden

from septet.datamodules.scenarios.records import canonical_key
from septet.lightning_modules.smap.memory import MnemonicCenter, write_spool

SPAWN = multiprocessing.get_context("spawn")


def record(model="M", dataset="D", run="r1", value=1.0, seed=0, **extra):
    return {
        "scenario": {"task": "t", "metric": "mae", "direction": "min"}, "dataset": {"name": dataset},
        "model": {"name": model}, "value": value, "provenance": {"run_id": run, "seed": seed}, **extra,
    }  # fmt: skip


def claim_all(path, owner, keys, out):
    with MnemonicCenter(path) as store:
        out.put((owner, [k for k in keys if store.claim(k, owner) == "won"]))


def write_forever(path, started):
    with MnemonicCenter(path) as store:
        store.claim("dead", "dead", lease_s=0.5)
        i = 0
        while True:
            store.write(record(model=f"m{i}", value=1.0 + i))
            i += 1
            if i == 20:
                started.set()


def test_merged_stores_equal_the_golden_values(tmp_path):
    for number, case in enumerate(json.loads(golden("smap", "merge.json").read_text())):
        stores = []
        for side in "ab":
            store = MnemonicCenter(tmp_path / f"{number}{side}.sqlite")
            for item in case[side]:
                store.write(item)
            stores.append(store)
        a, b = stores
        a.merge(b.path)
        a.merge(b.path)
        b.merge(a.path)
        for key, expected in case["expected"].items():
            found = a.get(key)
            assert found["n"] == expected["n"], case["name"]
            assert found["mean"] == pytest.approx(expected["mean"], abs=1e-9, rel=1e-12)
            if expected["std"] is None:
                assert found["std"] is None
            else:
                assert found["std"] == pytest.approx(expected["std"], abs=1e-7)
        a.export(tmp_path / "a.jsonl")
        b.export(tmp_path / "b.jsonl")
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
        a.close()
        b.close()


def test_claims_have_leases(tmp_path):
    now = [0.0]
    with MnemonicCenter(tmp_path / "s.sqlite", clock=lambda: now[0]) as store:
        assert store.claim("k", "a", lease_s=10) == "won"
        assert store.claim("k", "a") == "won"
        assert store.claim("k", "b") == "busy"
        store.claim("j", "a", lease_s=10)
        now[0] = 11.0
        assert store.claim("j", "b") == "won"
        with pytest.raises(ValueError, match="claimed by 'b'"):
            store.fail("j", "a", "crash")
        store.fail("j", "b", "crash")
        assert store.claim("j", "a") == "won"
        with pytest.raises(KeyError):
            store.fail("unknown", "a", "crash")


def test_states_and_conflicts(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        key = store.write(record())
        assert key == canonical_key(record())
        assert store.claim(key, "a") == "hit"
        store.write(record())
        assert store.stats() == {"done": 1, "records": 1, "observations": 1}
        with pytest.raises(ValueError, match="conflict"):
            store.write(record(value=2.0))
        store.quarantine(key, "odd")
        store.write(record(seed=1, value=3.0))
        assert (store.get(key)["state"], store.get(key)["mean"]) == ("quarantined", 2.0)
        assert store.match({"task": "t"}) == []
        store.reopen(key)
        assert store.claim(key, "a") == "won"
        store.retract(key, "wrong")
        assert store.claim(key, "a") == "hit"
        assert store.get("nothing") is None
        for call in (store.reopen, lambda k: store.retract(k, "x"), lambda k: store.quarantine(k, "x")):
            with pytest.raises(KeyError):
                call("nothing")


def test_a_later_evaluation_replaces_its_observation(tmp_path):
    def at(when, value):
        found = record(value=value)
        found["provenance"]["when"] = when
        return found

    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        key = store.write(at("2026-01-01", 1.0))
        store.write(at("2026-01-02", 2.0))
        assert store.get(key)["mean"] == 2.0
        with pytest.raises(ValueError, match="conflict"):
            store.write(at("2026-01-01", 3.0))


def test_match_by_scenario_and_dataset(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        for name in ("METR-LA", "PEMS08"):
            for model in ("A", "B"):
                store.write(record(model=model, dataset=name))
        assert len(store.match({"task": " T "})) == 4
        assert [e["record"]["dataset"]["name"] for e in store.match({"task": "t"}, {"name": "metrla"})] == [
            "METR-LA"
        ] * 2
        assert store.match({"task": "t", "horizon": 3}) == []


def test_recall_finds_the_nearest_and_leaves_groups_out(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        keys = [store.write(record(model=f"m{i}", dataset=f"D{i % 2}")) for i in range(6)]
        vectors = np.arange(6, dtype=np.float32)[:, None]
        store.index(keys, vectors, generation=1)
        assert [k for k, _ in store.recall([0.1], k=2)] == [keys[0], keys[1]]
        assert [k for k, _ in store.recall([0.1], k=2, exclude_groups=["d0"])] == [keys[1], keys[3]]
        store.quarantine(keys[0], "odd")
        assert store.recall([0.0], k=1)[0][0] == keys[1]
        with pytest.raises(ValueError, match="k is 0"):
            store.recall([0.0], k=0)
        with pytest.raises(ValueError, match="width"):
            store.recall([0.0, 1.0])
        with pytest.raises(ValueError, match="one row for each"):
            store.index(keys, vectors[:2], 1)


def test_four_processes_claim_each_key_once(tmp_path):
    path = tmp_path / "s.sqlite"
    MnemonicCenter(path).close()
    keys = [f"{i:032x}" for i in range(2000)]
    out = SPAWN.Queue()
    workers = [SPAWN.Process(target=claim_all, args=(path, f"w{i}", keys, out)) for i in range(4)]
    for w in workers:
        w.start()
    won = [out.get(timeout=120) for _ in workers]
    for w in workers:
        w.join()
    listed = [k for _, mine in won for k in mine]
    assert sorted(listed) == keys


def test_a_killed_writer_leaves_a_valid_store(tmp_path):
    path = tmp_path / "s.sqlite"
    started = SPAWN.Event()
    worker = SPAWN.Process(target=write_forever, args=(path, started))
    worker.start()
    assert started.wait(60)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
    with MnemonicCenter(path) as store:
        stats = store.stats()
        assert stats["observations"] == stats["done"] >= 20
        time.sleep(0.6)
        assert store.claim("dead", "heir") == "won"


def test_spool_files_are_ingested_once(tmp_path):
    folder = tmp_path / "spool"
    path = write_spool([record(), record(model="N")], folder, "run-1")
    with path.open("a") as handle:
        handle.write('{"half": \n' + json.dumps(record(value=9.0)) + "\n")
    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        assert store.ingest(folder) == (4, 2, 0, 2)
        assert store.ingest(folder) == (4, 0, 2, 2)
        assert len((folder / "rejected/run-1.jsonl").read_text().splitlines()) == 2
        with pytest.raises(ValueError, match="no spool folder"):
            store.ingest(tmp_path / "none")
    with pytest.raises(ValueError, match="run_id"):
        write_spool([], folder, "../x")


def test_snapshots_round_trip_and_never_overwrite(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as store:
        store.write(record())
        state = store.state_dict()
        store.export(tmp_path / "a.jsonl")
        with MnemonicCenter.restore(state, tmp_path / "new.sqlite") as copy:
            copy.export(tmp_path / "b.jsonl")
            assert copy.state_dict()["uuid"] == state["uuid"]
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
        store.write(record(model="N"))
        with pytest.warns(UserWarning, match="kept"):
            MnemonicCenter.restore(state, tmp_path / "s.sqlite").close()
        assert store.stats()["records"] == 2
    with pytest.raises(ValueError, match="corrupt"):
        MnemonicCenter.restore({**state, "snapshot": b"x"}, tmp_path / "other.sqlite")
    MnemonicCenter(tmp_path / "fresh.sqlite").close()
    with pytest.raises(ValueError, match="another or an older"):
        MnemonicCenter.restore(state, tmp_path / "fresh.sqlite")
    with pytest.raises(ValueError, match="no snapshot"):
        MnemonicCenter.restore({**state, "snapshot": None}, tmp_path / "none.sqlite")


def test_foreign_and_newer_files_stay_untouched(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello " * 200)
    with pytest.raises(ValueError, match="not a mnemonic center"):
        MnemonicCenter(text)
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE a (b)")
    foreign.commit()
    foreign.close()
    with pytest.raises(ValueError, match="foreign SQLite"):
        MnemonicCenter(tmp_path / "foreign.sqlite")
    MnemonicCenter(tmp_path / "s.sqlite").close()
    newer = sqlite3.connect(tmp_path / "s.sqlite")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ValueError, match="schema 99"):
        MnemonicCenter(tmp_path / "s.sqlite")
