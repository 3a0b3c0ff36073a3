"""Canonical keys, validation, repeats, the ledger and the plausibility gate."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from tests.support.paths import golden, shared_data

from septet.datamodules.scenarios.records import (
    ALIASES,
    canonical_json,
    canonical_key,
    from_ledger,
    observation_id,
    plausibility,
    pool,
    read_records,
    validate_record,
)

RECORD = {
    "scenario": {"task": "speed", "metric": "mae", "direction": "min"},
    "dataset": {"name": "A"},
    "model": {"name": "M"},
    "value": 2,
    "provenance": {"run_id": "r1", "seed": 0},
}


def load(name):
    return json.loads(golden("smap", name).read_text())


def test_aliases_are_the_published_table():
    assert load("aliases.json") == ALIASES


def test_keys_equal_the_golden_ones():
    cases = load("keys.json")
    assert canonical_json(cases["base"]) == cases["base_json"]
    assert canonical_key(cases["base"]) == cases["base_key"]
    for case in cases["variants"]:
        assert canonical_key(case["record"]) == case["key"], case["name"]
        assert (case["key"] == cases["base_key"]) == case["same"]
    for case in cases["exact"]:
        assert canonical_json(case["record"]) == case["canonical_json"]
        assert canonical_key(case["record"]) == case["key"]


def test_fields_that_collide_or_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"both read 'mask'"):
        canonical_key({**RECORD, "protocol": {"mask": 1, " MASK ": 2}})
    with pytest.raises(ValueError, match=r"protocol\.x is inf"):
        canonical_key({**RECORD, "protocol": {"x": math.inf}})


@pytest.mark.parametrize(
    ("block", "field", "value", "where"),
    [
        ("scenario", "task", "", "scenario.task"),
        ("scenario", "metric", None, "scenario.metric"),
        ("scenario", "direction", "up", "scenario.direction"),
        ("scenario", "unit", "metres", "scenario.unit"),
        ("dataset", "name", 3, "dataset.name"),
        ("model", "name", None, "model.name"),
        ("provenance", "run_id", None, "provenance.run_id"),
        ("provenance", "leakage", "maybe", "provenance.leakage"),
        (None, "value", math.nan, "record.value"),
        (None, "value", None, "record.value"),
        (None, "value", True, "record.value"),
        (None, "n", 0, "record.n"),
        (None, "std", -1.0, "record.std"),
        (None, "state", "gone", "state"),
        (None, "criteria", [1], "criteria"),
    ],
)
def test_what_is_wrong_is_named(block, field, value, where):
    record = copy.deepcopy(RECORD)
    (record if block is None else record[block])[field] = value
    with pytest.raises(ValueError, match=where.replace(".", r"\.")):
        validate_record(record)


def test_a_valid_record_is_normalised_and_copied():
    record = validate_record({**RECORD, "note": "kept", "n": 2.0, "value": np.float32(0.5)})
    assert (record["value"], record["n"], record["note"]) == (0.5, 2, "kept")
    assert isinstance(record["value"], float)
    assert isinstance(record["n"], int)
    assert "n" not in RECORD
    assert validate_record({**RECORD, "value": None, "state": "failed"})["value"] is None


def test_repeats_are_pooled_with_a_large_offset():
    values = np.array([1e9 + 1, 1e9 + 2, 1e9 + 4])
    n, mean, std = pool((1, float(v), None) for v in values)
    assert (n, mean) == (3, pytest.approx(values.mean(), abs=1e-6))
    assert std == pytest.approx((values - 1e9).std(ddof=1), abs=1e-7)
    assert pool([(1, 5.0, None)]) == (1, 5.0, None)


def test_ledger_rows_become_records():
    row = {
        "run_id": "r", "method": "cne_n", "dataset": "uci", "scenario": "links", "stage": "test", "status": "finished",
        "seed": 3, "finished": "2026-11-01T00:00:00+00:00", "cost": {"peak_rss_bytes": 5, "peak_vram_bytes": None},
        "metrics": {"test/ap": 0.9, "test/loss/dataloader_idx_1": 0.5, "test/odd": 1.0, "train/loss": 2,
                    "test/auc": None},
    }  # fmt: skip
    found = {r["scenario"]["metric"]: r for r in from_ledger(row)}
    assert set(found) == {"ap", "loss"}
    assert found["ap"]["scenario"] == {"task": "links", "metric": "ap", "direction": "max"}
    assert found["loss"]["protocol"] == {"stage": "test", "dataloader": 1}
    assert found["ap"]["model"] == {"name": "cne_n"}
    assert found["ap"]["criteria"]["peak_mem_bytes"] == 5
    assert found["ap"]["provenance"] == {"run_id": "r", "seed": 3, "when": row["finished"]}
    assert from_ledger({**row, "status": "failed"}) == []
    assert from_ledger({**row, "stage": "fit"}) == []


def test_observations_differ_by_run_and_seed_only():
    other = {**RECORD, "value": 9}
    assert observation_id(other) == observation_id(RECORD)
    assert observation_id({**RECORD, "provenance": {"run_id": "r1", "seed": 1}}) != observation_id(RECORD)


def test_a_corrupt_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(RECORD) + "\n{broken\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2"):
        list(read_records(path))


def test_plausibility_equals_the_golden_verdicts():
    for case in load("plausibility.json"):
        records = [{**r, "value": float(r["value"])} for r in case["records"]]
        assert plausibility(records) == case["verdict"], case["name"]
    with pytest.raises(ValueError, match="ratio"):
        plausibility([], ratio=1.5)


def test_the_copied_rows_of_libcity_are_found():
    from septet.datamodules.scenarios.builders import read_csv

    expected = load("plausibility_libcity.json")
    rows = [
        r
        for r in read_csv(shared_data("scenarios/traffic/libcity_ranking.csv.gz"))
        if r["scenario"] == expected["scenario"]
    ]
    records = [
        {
            "scenario": {"task": r["scenario"], "metric": r["metric"], "horizon": r["at"], "direction": "min"},
            "dataset": {"name": r["dataset"]}, "model": {"name": r["model"]}, "value": float(r["value"]),
        }
        for r in rows
    ]  # fmt: skip
    verdict = plausibility(records)
    assert {v: verdict.count(v) for v in set(verdict)} == expected["counts"]
    copied = sorted(
        [r["dataset"], r["model"], r["metric"], r["at"]] for r, v in zip(rows, verdict, strict=True) if v == "copied"
    )
    assert copied == sorted(expected["copied"])
