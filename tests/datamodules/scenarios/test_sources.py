"""What reaches an answer: stores and their states, exports, configurations and training time of ledger rows."""

from __future__ import annotations

import json
import sqlite3

import pytest

from septet.datamodules.scenarios.commands import main
from septet.datamodules.scenarios.configuration import configuration_sha256
from septet.datamodules.scenarios.memory import MnemonicCenter
from septet.datamodules.scenarios.records import canonical_key, read_records, validate_record
from septet.datamodules.scenarios.tables import (
    collect_records,
    gate,
    ledger_records,
    model_names,
    pooled,
    table_records,
)

CONFIG = """seed_everything: {seed}
trainer: {{max_epochs: {epochs}, devices: auto, logger: null}}
model: {{class_path: septet.M, init_args: {{lr: {lr}, seed: {seed}}}}}
data: {{class_path: septet.D, init_args: {{path: {path}, seed: {seed}, num_workers: {seed}}}}}
"""


def text(seed=0, epochs=4, lr=0.1, path="data/uci.npz"):
    return CONFIG.format(seed=seed, epochs=epochs, lr=lr, path=path)


def record(model, dataset, value, **extra):
    return {
        "scenario": {"task": "t", "metric": "mae", "direction": "min"}, "dataset": {"name": dataset},
        "model": {"name": model}, "value": value, "provenance": {"run_id": f"{model}{dataset}"}, **extra,
    }  # fmt: skip


def ledger(folder, runs, **extra):
    rows = []
    for run, (seed, config) in runs.items():
        total = configuration_sha256(config)
        shared = {"run_id": run, "method": "cne_n", "name": "smoke", "status": "finished", "seed": seed,
                  "dataset": "uci", "scenario": {"task": "links"}, "config_sha256": total}  # fmt: skip
        rows.append({**shared, "stage": "fit", "metrics": {}, "cost": {"total_wall_s": 30.0, "devices": 2}})
        rows.append({**shared, "stage": "test", "metrics": {"test/ap": 0.5 + 0.1 * seed}, **extra})
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        db.execute("CREATE TABLE runs (run_id TEXT, finished TEXT, record TEXT)")
        db.executemany("INSERT INTO runs VALUES (?, '', ?)", [(r["run_id"], json.dumps(r)) for r in rows])
    db.close()
    return folder / "ledger.sqlite"


def test_a_configuration_is_the_same_for_every_seed_machine_and_folder():
    first = configuration_sha256(text())
    assert first == configuration_sha256(text(seed=3)) == configuration_sha256(text(path="/scratch/x/uci.npz"))
    assert len({first, configuration_sha256(text(epochs=1)), configuration_sha256(text(lr=0.2)),
                configuration_sha256(text(path="data/enron.npz"))}) == 4  # fmt: skip
    assert configuration_sha256("a: [") is None
    assert configuration_sha256("3") is None


def test_seeds_of_one_configuration_pool_and_other_configurations_do_not(tmp_path):
    path = ledger(tmp_path, {"a": (0, text(0)), "b": (1, text(1)), "c": (0, text(0, epochs=1))})
    entries = pooled(ledger_records(path))
    assert sorted(e["n"] for e in entries) == [1, 2]
    assert len(set(model_names(entries))) == 2
    assert set(model_names(entries[:1])) == {"cne_n"}


def test_an_evaluation_takes_the_training_time_of_its_fit(tmp_path):
    (found,) = ledger_records(ledger(tmp_path, {"a": (0, text())}))
    assert found["criteria"]["train_s"] == 60.0


def test_fresh_weights_took_no_training(tmp_path):
    path = ledger(tmp_path, {"a": (0, text())}, checkpoint="none (fresh weights)")
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM runs WHERE json_extract(record, '$.stage') = 'fit'")
    db.close()
    assert ledger_records(path)[0]["criteria"]["train_s"] == 0.0


def test_the_traffic_table_carries_size_and_training_time_per_data_set():
    found = {(r["model"]["name"], r["dataset"]["name"]): r for r in table_records("traffic_speed")}
    assert found["STNorm", "PEMSD7L"]["model"]["params"] == 643084
    assert found["STNorm", "PEMSBAY"]["model"]["params"] == 284172
    assert "params" not in found["DCRNN", "METRLA"]["model"]
    assert found["STAEformer", "METRLA"]["criteria"]["train_s"] == pytest.approx(3266, abs=1)


@pytest.fixture
def store(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as center:
        keys = [center.write(record(m, d, v)) for m, v in (("A", 1.0), ("B", 2.0)) for d in ("D", "E")]
        center.retract(keys[0], "wrong")
        center.export(tmp_path / "e.jsonl")
    return tmp_path


@pytest.mark.parametrize("name", ["s.sqlite", "e.jsonl"])
def test_a_store_and_its_export_speak_and_a_retracted_key_is_silent_everywhere(store, name):
    found = [r for _, r in read_records(store / name)]
    assert len(found) == 4
    kept, out = gate([*found, validate_record(record("A", "D", 1.0))])
    assert len(kept) == 3
    assert {why for _, why in out} == {"retracted in a store"}


def test_an_export_taken_in_again_gives_the_same_export(store, capsys):
    assert main("ingest", [str(store / "e.jsonl"), "--out", str(store / "t.sqlite")]) == 0
    assert "read=4, new=4, duplicate=0, rejected=0" in capsys.readouterr().out
    with MnemonicCenter(store / "t.sqlite") as center:
        center.export(store / "f.jsonl")
    assert (store / "f.jsonl").read_bytes() == (store / "e.jsonl").read_bytes()


def test_refused_lines_are_printed_and_counted_in_the_exit_code(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(record("A", "D", 1.0)) + "\n{broken\n")
    assert main("ingest", [str(tmp_path / "in"), "--out", str(tmp_path / "s.sqlite")]) == 2
    error = capsys.readouterr().err
    assert "a.jsonl:2: " in error
    assert "1 rejected lines of a.jsonl lie in" in error


def test_wrong_files_are_named(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(b'{"a": 1}\n'[:0] + b"\xff\xfe\x00\n")
    with pytest.raises(ValueError, match=r"b\.jsonl:1: not UTF-8 text"):
        list(read_records(tmp_path / "b.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        list(read_records(tmp_path / "empty"))
    with pytest.raises(ValueError, match="--root"):
        main("verify", [str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="is a folder; a store is one file"):
        MnemonicCenter(tmp_path / "empty")
    with pytest.raises(ValueError, match="given as --ledger"):
        list(read_records(ledger(tmp_path, {"a": (0, text())})))


def test_a_retraction_needs_a_reason(store):
    with MnemonicCenter(store / "s.sqlite") as center:
        key = center.keys()[0]
    with pytest.raises(ValueError, match="say why"):
        main("retract", [str(store / "s.sqlite"), key])


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [("model", "params", "3M"), ("model", "params", -3), ("model", "licence", 3), ("acceptance", "stars", "many"),
     ("criteria", "train_s", -1)],
)  # fmt: skip
def test_wrong_quantities_are_named(block, field, value):
    wrong = record("A", "D", 1.0)
    wrong[block] = {**wrong.get(block, {}), field: value}
    with pytest.raises(ValueError, match=rf"{block}\.{field} is"):
        validate_record(wrong)


def test_the_store_refuses_empty_keys_dead_leases_and_unknown_vectors(tmp_path):
    with MnemonicCenter(tmp_path / "s.sqlite") as center:
        with pytest.raises(ValueError, match="non-empty"):
            center.claim("", "me")
        with pytest.raises(ValueError, match="lease_s is -1"):
            center.claim("k", "me", lease_s=-1)
        with pytest.raises(KeyError, match="nobody"):
            center.index(["nobody"], [[0.0]], 1)


def test_a_conflict_keeps_the_smaller_value_whatever_the_order():
    a, b = (validate_record(record("A", "D", v)) for v in (1.0, 9.0))
    for rows in ([a, b], [b, a]):
        kept, out = gate(rows)
        assert [r["value"] for r in kept] == [1.0]
        assert [r["value"] for r, _ in out] == [9.0]
    later = {**b, "provenance": {**b["provenance"], "when": "2026-02"}}
    earlier = {**a, "provenance": {**a["provenance"], "when": "2026-01"}}
    assert pooled([later, earlier])[0]["mean"] == 9.0
    assert canonical_key(a) == canonical_key(b)


def test_a_single_file_can_be_taken_in(store, capsys):
    assert main("ingest", [str(store / "e.jsonl"), "--out", str(store / "s.sqlite")]) == 0
    assert "duplicate=4" in capsys.readouterr().out


def test_what_is_retracted_does_not_train_either(store):
    found = collect_records(store / "s.sqlite", None)
    assert len(found) == 3
