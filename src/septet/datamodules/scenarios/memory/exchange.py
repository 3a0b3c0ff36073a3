"""Exchange between stores: merging, spool folders, export and snapshots."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.memory.observations import Observations, dump
from septet.datamodules.scenarios.memory.spool import IngestReport, MergeReport, SpoolLine, read_spool
from septet.datamodules.scenarios.records import newer

PRECEDENCE = ("claimed", "failed", "stale", "done", "quarantined", "retracted")
"""States in rising order: of two merged ones the higher stays."""
_LOCKED = ("quarantined", "retracted")


class Exchange(Observations):
    """A store that takes from others and gives to others."""

    def merge(self, other_path: str | Path) -> MergeReport:
        """Union of observations with another store; idempotent, commutative and associative.

        Of two conflicting values of one observation the smaller stays, whichever side it comes from.

        Raises:
            ValueError: the other file is no store.
        """
        if not Path(other_path).is_file():
            raise ValueError(f"no store {other_path} to merge")
        new = duplicate = conflicts = 0
        with closing(Exchange(other_path, clock=self.clock)) as other, self._store.write() as db:
            keys = other._store.db.execute("SELECT key, state, reason FROM keys").fetchall()
            for key, state, reason in keys:
                counts = self._merge_key(db, other, key, state, reason)
                new, duplicate, conflicts = new + counts[0], duplicate + counts[1], conflicts + counts[2]
            self._store.touch(db)
        return MergeReport(new, duplicate, conflicts)

    def _merge_key(
        self, db: sqlite3.Connection, other: Exchange, key: str, state: str, reason: str | None
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
                if not newer(record, json.loads(old[1])) and (newer(json.loads(old[1]), record) or value >= old[0]):
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
        """Take in every ``*.jsonl`` of a spool folder, or one such file; bad lines go to ``rejected/`` beside them.

        Twice equals once. An exported line brings its observations, and its state by :data:`PRECEDENCE`.
        """
        folder = Path(folder)
        if not folder.exists():
            raise ValueError(f"no spool folder {folder}")
        total = IngestReport(0, 0, 0, 0)
        for path in [folder] if folder.is_file() else sorted(folder.glob("*.jsonl")):
            bad: list[str] = []
            with self._store.write():
                for line in read_spool(path):
                    counts = self._ingest_line(line, bad)
                    total = IngestReport(*(a + b for a, b in zip(total, counts, strict=True)))
            if bad:
                target = path.parent / "rejected" / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_text("\n".join(bad) + "\n", encoding="utf-8")
        return total

    def _ingest_line(self, line: SpoolLine, bad: list[str]) -> tuple[int, int, int, int]:
        """Read, new, duplicate and rejected of one line; a rejected one is added to ``bad``."""
        new = duplicate = 0
        problem = line.problem
        for record in line.records:
            state = record.get("state", "done")
            try:
                key, fresh = self._write({k: v for k, v in record.items() if k != "state" or state not in _LOCKED})
                if state in _LOCKED:
                    self._raise(key, state)
            except ValueError as error:
                problem = str(error)
            else:
                new, duplicate = new + fresh, duplicate + (not fresh)
        if problem:
            bad.append(dump({"line": line.number, "problem": problem, "text": line.text}))
        rejected = len(line.records) - new - duplicate if line.records else int(bool(problem))
        return new + duplicate + rejected, new, duplicate, rejected

    def _raise(self, key: str, state: str) -> None:
        """Give a key a state of an import unless its own ranks higher."""
        own = self._store.db.execute("SELECT state FROM keys WHERE key = ?", (key,)).fetchone()[0]
        if PRECEDENCE.index(state) > PRECEDENCE.index(own):
            self._set(key, state, "imported")

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every entry but claims, by key."""
        keys = [k for (k,) in self._store.db.execute("SELECT key FROM keys WHERE state != 'claimed' ORDER BY key")]
        return (entry for key in keys if (entry := self.get(key)) is not None)

    def export(self, path: str | Path) -> int:
        """Write every entry but claims as canonical JSON Lines sorted by key; returns their number."""
        lines = [dump(entry) + "\n" for entry in self.entries()]
        Path(path).write_text("".join(lines), encoding="utf-8")
        return len(lines)

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

    def check(self) -> str:
        """SQLite's own word on the file: ``ok``, or what is broken."""
        return str(self._store.db.execute("PRAGMA integrity_check").fetchone()[0])
