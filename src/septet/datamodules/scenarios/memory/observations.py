"""Observations by canonical key: written once, pooled, looked up and matched."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from septet.datamodules.scenarios.memory.claims import Claims
from septet.datamodules.scenarios.records import (
    canonical_block,
    canonical_json,
    canonical_key,
    newer,
    observation_id,
    pool,
    validate_record,
)


def dump(value: Any) -> str:
    """JSON of one stored value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Observations(Claims):
    """Records of a store."""

    def write(self, record: Mapping[str, Any]) -> str:
        """Store one observation and return its key; a known observation with the same value is a no-op.

        Raises:
            ValueError: a record that is not valid, or a known observation with another value (conflict).
        """
        key, _ = self._write(validate_record(record))
        return key

    def _write(self, record: dict[str, Any]) -> tuple[str, bool]:
        key, identity = canonical_key(record), observation_id(record)
        if record.get("state") == "failed":
            self.claim(key, "record")
            self.fail(key, "record", str(record.get("reason", "failed")))
            return key, False
        with self._store.write() as db:
            old = db.execute(
                "SELECT value, record FROM observations WHERE key = ? AND id = ?", (key, identity)
            ).fetchone()
            if old is not None and old[0] == record["value"]:
                return key, False
            if old is not None and not newer(record, json.loads(old[1])):
                raise ValueError(
                    f"conflict: observation {identity} of key {key} has value {old[0]}, now {record['value']}"
                )
            self._observe(db, key, identity, record)
            self._refresh(db, key, "done", None)
            self._store.touch(db)
        return key, True

    def _observe(self, db: sqlite3.Connection, key: str, identity: str, record: Mapping[str, Any]) -> None:
        row = (key, identity, record["n"], record["value"], record.get("std"), dump(record))
        db.execute("INSERT OR REPLACE INTO observations VALUES (?, ?, ?, ?, ?, ?)", row)

    def _refresh(self, db: sqlite3.Connection, key: str, state: str, reason: str | None) -> None:
        """Pool the observations of a key; a quarantined or retracted key stays so."""
        rows = db.execute(
            "SELECT n, value, std, record, id FROM observations WHERE key = ? ORDER BY id", (key,)
        ).fetchall()
        n, mean, std = pool((r[0], r[1], r[2]) for r in rows)
        record = json.loads(rows[0][3])
        place = canonical_block("scenario", record["scenario"])
        dataset = canonical_block("dataset", record["dataset"])
        db.execute(
            "INSERT INTO keys (key, state, reason, task, metric, dataset, n, mean, std, canonical, record) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "state = CASE WHEN state IN ('quarantined', 'retracted') THEN state ELSE excluded.state END, "
            "owner = NULL, lease = NULL, reason = coalesce(excluded.reason, reason), task = excluded.task, "
            "metric = excluded.metric, dataset = excluded.dataset, n = excluded.n, mean = excluded.mean, "
            "std = excluded.std, canonical = excluded.canonical, record = excluded.record",
            (key, state, reason, place["task"], place["metric"], dataset["name"], n, mean, std,
             canonical_json(record), rows[0][3]),
        )  # fmt: skip

    def get(self, key: str) -> dict[str, Any] | None:
        """State, pooled value, record and observations of a key; None if unknown."""
        db = self._store.db
        row = db.execute("SELECT state, n, mean, std, record FROM keys WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        rows = db.execute("SELECT record FROM observations WHERE key = ? ORDER BY id", (key,)).fetchall()
        return _entry(key, row, [json.loads(text) for (text,) in rows])

    def match(self, scenario: Mapping[str, Any], dataset: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Done entries whose canonical fields equal all those given, by key."""
        want = {"scenario": canonical_block("scenario", scenario), "dataset": canonical_block("dataset", dataset)}
        where, values = ["state = 'done'"], []
        for column, block, name in (
            ("task", "scenario", "task"),
            ("metric", "scenario", "metric"),
            ("dataset", "dataset", "name"),
        ):
            if name in want[block]:
                where.append(f"{column} = ?")
                values.append(want[block][name])
        index = "INDEXED BY by_dataset" if "name" in want["dataset"] else ""
        query = f"SELECT key, canonical FROM keys {index} WHERE {' AND '.join(where)}"
        found = []
        for key, text in sorted(self._store.db.execute(query, values).fetchall()):
            blocks = json.loads(text)
            if all(blocks.get(b, {}).get(k) == v for b, fields in want.items() for k, v in fields.items()):
                found.append(self.get(key))
        return [entry for entry in found if entry is not None]

    def keys(self) -> list[str]:
        """All keys of done entries, sorted."""
        return [k for (k,) in self._store.db.execute("SELECT key FROM keys WHERE state = 'done' ORDER BY key")]

    def stats(self) -> dict[str, int]:
        """Counts by state, of all records and observations."""
        db = self._store.db
        found = {str(s): int(c) for s, c in db.execute("SELECT state, count(*) FROM keys GROUP BY state")}
        found["records"] = sum(found.values())
        found["observations"] = int(db.execute("SELECT count(*) FROM observations").fetchone()[0])
        return found


def _entry(key: str, row: Any, observations: list[dict[str, Any]]) -> dict[str, Any]:
    record = json.loads(row[4]) if row[4] else None
    return {"key": key, "state": row[0], "n": row[1], "mean": row[2], "std": row[3], "record": record,
            "observations": observations}  # fmt: skip
