"""The SQLite file behind the mnemonic center: one connection per process and thread, WAL, short transactions."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

SCHEMA = 1
_APPLICATION = 0x5E97E7
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
  key TEXT PRIMARY KEY, state TEXT NOT NULL, owner TEXT, lease REAL, reason TEXT,
  task TEXT, metric TEXT, dataset TEXT, n INTEGER, mean REAL, std REAL, canonical TEXT, record TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_task ON keys (task, metric, state);
CREATE INDEX IF NOT EXISTS by_dataset ON keys (dataset, task, metric, state);
CREATE TABLE IF NOT EXISTS observations (
  key TEXT NOT NULL, id TEXT NOT NULL, n INTEGER NOT NULL, value REAL, std REAL, record TEXT NOT NULL,
  PRIMARY KEY (key, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (
  key TEXT PRIMARY KEY, generation INTEGER NOT NULL, vector BLOB NOT NULL
) WITHOUT ROWID;
"""


class Store:
    """Connections to one file.

    Args:
        path: of the database; made when absent.
        busy_timeout_s: how long a writer waits for another.

    Raises:
        ValueError: SQLite too old, a foreign file, or a store of a newer schema (left untouched).
    """

    def __init__(self, path: str | Path, busy_timeout_s: float) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old for the mnemonic center; it needs 3.35")
        self.path, self.timeout = Path(path), busy_timeout_s
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._check_file()
        with self.write() as db:
            self._create(db)

    def _check_file(self) -> None:
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; a store is one file, such as {self.path / 'store.sqlite'}")
        if not self.path.is_file() or self.path.stat().st_size == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return
        try:
            db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=self.timeout)
            with contextlib.closing(db):
                application = db.execute("PRAGMA application_id").fetchone()[0]
                version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is not a mnemonic center: {error}") from error
        if application != _APPLICATION:
            raise ValueError(
                f"{self.path} is a foreign SQLite file, not a mnemonic center; choose another path "
                "(a run ledger is given as --ledger)"
            )
        if version > SCHEMA:
            raise ValueError(f"{self.path} has schema {version}, this Septet reads {SCHEMA}; upgrade Septet")

    def _create(self, db: sqlite3.Connection) -> None:
        if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA:
            return
        for statement in _TABLES.split(";"):
            if statement.strip():
                db.execute(statement)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('uuid', ?)", (str(uuids.uuid4()),))
        db.execute("INSERT OR IGNORE INTO meta VALUES ('generation', '0')")
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")

    @property
    def db(self) -> sqlite3.Connection:
        """The connection of this process and thread; a forked child opens its own."""
        held = getattr(self._local, "held", None)
        if held is None or held[0] != os.getpid():
            db = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            db.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            self._local.held = held = (os.getpid(), db)
            self._open.append(db)
        connection: sqlite3.Connection = held[1]
        return connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction; nests into a running one."""
        db = self.db
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def meta(self, name: str) -> str:
        """A value of the table of facts about the store."""
        return str(self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def touch(self, db: sqlite3.Connection) -> None:
        """Count a change of content."""
        db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")

    def close(self) -> None:
        """Close every connection that this process opened."""
        for db in self._open:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._open.clear()
        self._local = threading.local()
