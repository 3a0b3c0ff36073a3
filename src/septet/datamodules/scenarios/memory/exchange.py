"""Exchange between stores: merging, spool folders, export and snapshots."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from septet.datamodules.scenarios.memory.observations import Observations, dump, newer
from septet.datamodules.scenarios.memory.spool import IngestReport, MergeReport, read_spool

PRECEDENCE = ("claimed", "failed", "stale", "done", "quarantined", "retracted")
"""States in rising order: of two merged ones the higher stays."""


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
                    bad.append(dump({"line": number, "problem": problem, "text": line}))
            if bad:
                target = folder / "rejected" / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_text("\n".join(bad) + "\n", encoding="utf-8")
        return IngestReport(read, new, duplicate, rejected)

    def export(self, path: str | Path) -> int:
        """Write every entry but claims as canonical JSON Lines sorted by key; returns their number."""
        keys = [k for (k,) in self._store.db.execute("SELECT key FROM keys WHERE state != 'claimed' ORDER BY key")]
        text = "".join(dump(self.get(key)) + "\n" for key in keys)
        Path(path).write_text(text, encoding="utf-8")
        return len(keys)

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
