"""The mnemonic center: a persistent associative memory of results that never stores one match twice. No torch."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from septet.datamodules.scenarios.records import (
    canonical_block,
    canonical_json,
    canonical_key,
    observation_id,
    pool,
    validate_record,
)
from septet.lightning_modules.smap.spool import IngestReport, MergeReport, read_spool, write_spool
from septet.lightning_modules.smap.store import Store

__all__ = ["IngestReport", "MergeReport", "MnemonicCenter", "write_spool"]
PRECEDENCE = ("claimed", "failed", "stale", "done", "quarantined", "retracted")
"""States in rising order: of two merged ones the higher stays."""
_LARGEST_SNAPSHOT = 50 * 2**20


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class MnemonicCenter:
    """Keys, observations and vectors in one SQLite file (specification, section 7).

    WAL is unsafe on network file systems: there, processes write spool files and a node-local store ingests them.

    Args:
        path: of the store; made when absent.
        busy_timeout_s: how long to wait for another writer.
        clock: seconds, for leases.

    Raises:
        ValueError: a foreign file, or a store of a newer schema.
    """

    def __init__(
        self, path: str | Path, *, busy_timeout_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.clock = Path(path), clock
        self._store = Store(path, busy_timeout_s)
        self._matrix: tuple[int, list[str], list[str], Any] | None = None
        self._norm: tuple[Any, Any] | None = None

    def __enter__(self) -> MnemonicCenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process."""
        self._store.close()

    # -- claims -----------------------------------------------------------------------------------------------------

    def claim(self, key: str, owner: str, lease_s: float = 3600.0) -> str:
        """Ask for the right to produce a key: ``won``, ``hit`` (there is a result) or ``busy`` (another's lease)."""
        now = self.clock()
        with self._store.write() as db:
            row = db.execute(
                "INSERT INTO keys (key, state, owner, lease) VALUES (?, 'claimed', ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET state = 'claimed', owner = excluded.owner, lease = excluded.lease "
                "WHERE state IN ('failed', 'stale') "
                "OR (state = 'claimed' AND (owner = excluded.owner OR lease <= ?)) RETURNING 1",
                (key, owner, now + lease_s, now),
            ).fetchone()
            if row is not None:
                return "won"
            state = db.execute("SELECT state FROM keys WHERE key = ?", (key,)).fetchone()[0]
        return "busy" if state == "claimed" else "hit"

    def fail(self, key: str, owner: str, reason: str) -> None:
        """Give a claim back as failed.

        Raises:
            KeyError: unknown key.
            ValueError: the claim is another's.
        """
        with self._store.write() as db:
            state, holder = self._row(db, key, "state, owner")
            if state == "claimed" and holder != owner:
                raise ValueError(f"key {key} is claimed by {holder!r}, not {owner!r}")
            if state == "claimed":
                db.execute("UPDATE keys SET state = 'failed', reason = ? WHERE key = ?", (reason, key))

    # -- records ----------------------------------------------------------------------------------------------------

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
            if old is not None and not _newer(record, json.loads(old[1])):
                raise ValueError(
                    f"conflict: observation {identity} of key {key} has value {old[0]}, now {record['value']}"
                )
            self._observe(db, key, identity, record)
            self._refresh(db, key, "done", None)
            self._store.touch(db)
        return key, True

    def _observe(self, db: sqlite3.Connection, key: str, identity: str, record: Mapping[str, Any]) -> None:
        row = (key, identity, record["n"], record["value"], record.get("std"), _dump(record))
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

    def _row(self, db: sqlite3.Connection, key: str, fields: str) -> Any:
        row = db.execute(f"SELECT {fields} FROM keys WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return row

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

    def _set(self, key: str, state: str, reason: str | None) -> None:
        with self._store.write() as db:
            self._row(db, key, "state")
            db.execute("UPDATE keys SET state = ?, reason = ? WHERE key = ?", (state, reason, key))
            self._store.touch(db)

    def retract(self, key: str, reason: str) -> None:
        """Take a result back for good (KeyError if unknown)."""
        self._set(key, "retracted", reason)

    def quarantine(self, key: str, reason: str) -> None:
        """Keep a result out of recall (KeyError if unknown)."""
        self._set(key, "quarantined", reason)

    def reopen(self, key: str) -> None:
        """Mark a result stale, so that it can be claimed again (KeyError if unknown)."""
        self._set(key, "stale", None)

    # -- vectors ----------------------------------------------------------------------------------------------------

    def index(self, keys: Sequence[str], vectors: Any, generation: int) -> None:
        """Store embeddings ``(N, D)`` of done keys; those of other generations are dropped (they are a cache).

        Raises:
            ValueError: lengths, or vectors that are not finite.
        """
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.ndim != 2 or len(array) != len(keys) or not np.isfinite(array).all():
            raise ValueError(f"vectors {array.shape} must be finite, one row for each of the {len(keys)} keys")
        with self._store.write() as db:
            db.execute("DELETE FROM vectors WHERE generation != ?", (generation,))
            rows = ((k, generation, v.tobytes()) for k, v in zip(keys, array, strict=True))
            db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('vectors', hex(randomblob(8)))")

    def _vectors(self) -> tuple[list[str], list[str], Any]:
        db = self._store.db
        stamp = db.execute("SELECT value FROM meta WHERE name IN ('vectors', 'generation') ORDER BY name").fetchall()
        version = hash(tuple(stamp))
        if self._matrix is None or self._matrix[0] != version:
            rows = db.execute(
                "SELECT v.key, v.vector, k.record FROM vectors v JOIN keys k ON k.key = v.key "
                "WHERE k.state = 'done' ORDER BY v.key"
            ).fetchall()
            groups = [str(canonical_group(json.loads(r[2]))) for r in rows]
            matrix = (
                np.frombuffer(b"".join(r[1] for r in rows), dtype=np.float32).reshape(len(rows), -1) if rows else None
            )
            self._matrix = (version, [r[0] for r in rows], groups, matrix)
        return self._matrix[1], self._matrix[2], self._matrix[3]

    def recall(self, vector: Any, k: int = 16, exclude_groups: Iterable[str] = ()) -> list[tuple[str, float]]:
        """The k nearest done keys with their distances, data set groups left out on demand.

        Raises:
            ValueError: k below 1, or a vector of another width.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1")
        keys, groups, matrix = self._vectors()
        if matrix is None:
            return []
        query = np.asarray(vector, dtype=np.float32)
        if query.shape != matrix.shape[1:]:
            raise ValueError(f"vector {query.shape} against stored ones of width {matrix.shape[1]}")
        d2 = self._norms(matrix) - 2 * (matrix @ query)  # + |query|^2, the same for all
        barred = {canonical_group({"dataset": {"group": g}}) for g in exclude_groups}
        if barred:
            d2 = np.where(np.fromiter((g in barred for g in groups), bool, len(groups)), np.inf, d2)
        barred_rows = ~np.isfinite(d2)
        near = np.argpartition(d2, min(4 * k, len(d2)) - 1)[: 4 * k]  # by product form; exactly ordered below
        near = np.sort(near[~barred_rows[near]])
        exact = ((matrix[near] - query) ** 2).sum(1)
        order = np.argsort(exact, kind="stable")[:k]
        return [(keys[near[i]], float(np.sqrt(exact[i]))) for i in order]

    def _norms(self, matrix: Any) -> Any:
        """Squared norms of the stored vectors, kept beside them."""
        if self._norm is None or self._norm[0] is not matrix:
            self._norm = (matrix, (matrix**2).sum(1))
        return self._norm[1]

    # -- merging ----------------------------------------------------------------------------------------------------

    def merge(self, other_path: str | Path) -> MergeReport:
        """Union of observations with another store; idempotent, commutative and associative.

        Of two conflicting values of one observation the smaller stays, whichever side it comes from.

        Raises:
            ValueError: the other file is no store.
        """
        if not Path(other_path).is_file():
            raise ValueError(f"no store {other_path} to merge")
        new = duplicate = conflicts = 0
        with MnemonicCenter(other_path, clock=self.clock) as other, self._store.write() as db:
            keys = other._store.db.execute("SELECT key, state, reason FROM keys").fetchall()
            for key, state, reason in keys:
                counts = self._merge_key(db, other, key, state, reason)
                new, duplicate, conflicts = new + counts[0], duplicate + counts[1], conflicts + counts[2]
            self._store.touch(db)
        return MergeReport(new, duplicate, conflicts)

    def _merge_key(
        self, db: sqlite3.Connection, other: MnemonicCenter, key: str, state: str, reason: str | None
    ) -> tuple[int, int, int]:
        mine = db.execute("SELECT state FROM keys WHERE key = ?", (key,)).fetchone()
        best = state if mine is None else max(state, mine[0], key=PRECEDENCE.index)
        new = duplicate = conflicts = 0
        rows = other._store.db.execute("SELECT id, value, record FROM observations WHERE key = ?", (key,)).fetchall()
        for identity, value, text in rows:
            record = json.loads(text)
            old = db.execute(
                "SELECT value, record FROM observations WHERE key = ? AND id = ?", (key, identity)
            ).fetchone()
            if old is not None and old[0] == value:
                duplicate += 1
                if text >= old[1]:
                    continue
            elif old is not None:
                conflicts += 1
                if not _newer(record, json.loads(old[1])) and (_newer(json.loads(old[1]), record) or value >= old[0]):
                    continue
            else:
                new += 1
            self._observe(db, key, identity, record)
        held = db.execute("SELECT count(*) FROM observations WHERE key = ?", (key,)).fetchone()[0]
        if held:
            self._refresh(db, key, best, reason)
        elif mine is None:
            lease = other._store.db.execute("SELECT owner, lease FROM keys WHERE key = ?", (key,)).fetchone()
            db.execute(
                "INSERT INTO keys (key, state, owner, lease, reason) VALUES (?, ?, ?, ?, ?)",
                (key, best, *lease, reason),
            )
        db.execute("UPDATE keys SET state = ? WHERE key = ?", (best, key))
        return new, duplicate, conflicts

    def ingest(self, folder: str | Path) -> IngestReport:
        """Take in every ``*.jsonl`` of a spool folder; bad lines go to ``rejected/``; twice equals once."""
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"no spool folder {folder}")
        read = new = duplicate = rejected = 0
        for path in sorted(folder.glob("*.jsonl")):
            bad = []
            with self._store.write():
                for number, line, record, problem in read_spool(path):
                    read += 1
                    if record is not None:
                        try:
                            fresh = self._write(record)[1]
                        except ValueError as error:
                            problem = str(error)
                        else:
                            new, duplicate = new + fresh, duplicate + (not fresh)
                            continue
                    rejected += 1
                    bad.append(_dump({"line": number, "problem": problem, "text": line}))
            if bad:
                target = folder / "rejected" / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_text("\n".join(bad) + "\n", encoding="utf-8")
        return IngestReport(read, new, duplicate, rejected)

    # -- whole store ------------------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """All keys of done entries, sorted."""
        return [k for (k,) in self._store.db.execute("SELECT key FROM keys WHERE state = 'done' ORDER BY key")]

    def export(self, path: str | Path) -> int:
        """Write every entry but claims as canonical JSON Lines sorted by key; returns their number."""
        keys = [k for (k,) in self._store.db.execute("SELECT key FROM keys WHERE state != 'claimed' ORDER BY key")]
        text = "".join(_dump(self.get(key)) + "\n" for key in keys)
        Path(path).write_text(text, encoding="utf-8")
        return len(keys)

    def stats(self) -> dict[str, int]:
        """Counts by state, of all records and observations."""
        db = self._store.db
        found = {str(s): int(c) for s, c in db.execute("SELECT state, count(*) FROM keys GROUP BY state")}
        found["records"] = sum(found.values())
        found["observations"] = int(db.execute("SELECT count(*) FROM observations").fetchone()[0])
        return found

    def snapshot(self, path: str | Path) -> None:
        """A consistent copy of the store in one new file.

        Raises:
            ValueError: the file exists.
        """
        if Path(path).exists():
            raise ValueError(f"{path} exists; a snapshot overwrites nothing")
        target = sqlite3.connect(path)
        try:
            self._store.db.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        finally:
            target.close()

    def state_dict(self) -> dict[str, Any]:
        """uuid, generation, and the compressed snapshot with its sum (None above 50 MB), for a checkpoint."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot.sqlite"
            self.snapshot(path)
            data: bytes | None = zlib.compress(path.read_bytes(), 6)
        if data is not None and len(data) > _LARGEST_SNAPSHOT:
            data = None
        return {
            "uuid": self._store.meta("uuid"),
            "generation": int(self._store.meta("generation")),
            "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
            "snapshot": data,
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any], path: str | Path) -> MnemonicCenter:
        """Open the store of a checkpoint; a live one that is as new or newer is kept, never overwritten.

        Raises:
            ValueError: a corrupt snapshot, none in the checkpoint, or another store at that path.
        """
        target = Path(path)
        if target.is_file():
            live = cls(target)
            if live._store.meta("uuid") == state["uuid"] and int(live._store.meta("generation")) >= state["generation"]:
                warnings.warn(f"{target} is as new as the checkpoint or newer; it is kept", stacklevel=2)
                return live
            live.close()
            raise ValueError(f"{target} holds another or an older store; restore to a new path")
        data = state.get("snapshot")
        if data is None:
            raise ValueError("the checkpoint carries no snapshot (store above 50 MB); copy the store itself")
        try:
            if hashlib.sha256(data).hexdigest() != state["sha256"]:
                raise ValueError("its sum differs")
            raw = zlib.decompress(data)
        except (ValueError, TypeError, zlib.error) as error:
            raise ValueError(f"the snapshot in the checkpoint is corrupt: {error}") from error
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        partial.write_bytes(raw)
        partial.replace(target)
        return cls(target)


def canonical_group(record: Mapping[str, Any]) -> str:
    """Base data set of a record: its group, else its name, case folded."""
    dataset = record["dataset"]
    return str(dataset.get("group") or dataset.get("name")).casefold()


def _entry(key: str, row: Any, observations: list[dict[str, Any]]) -> dict[str, Any]:
    record = json.loads(row[4]) if row[4] else None
    return {"key": key, "state": row[0], "n": row[1], "mean": row[2], "std": row[3], "record": record,
            "observations": observations}  # fmt: skip


def _newer(record: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether a ledger row's later evaluation replaces an observation."""
    a, b = record["provenance"], old["provenance"]
    return bool(a.get("run_id") and a.get("when") and b.get("when") and str(a["when"]) > str(b["when"]))
