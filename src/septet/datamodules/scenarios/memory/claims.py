"""Who may produce a result: claims with leases, and the states of a key."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.memory.store import Store


class Claims:
    """Claims and states over one store file.

    Args:
        path: of the store; made when absent.
        busy_timeout_s: how long to wait for another writer.
        clock: seconds, for leases.
    """

    def __init__(
        self, path: str | Path, *, busy_timeout_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.clock = Path(path), clock
        self._store = Store(path, busy_timeout_s)

    def close(self) -> None:
        """Close the connections of this process."""
        self._store.close()

    def claim(self, key: str, owner: str, lease_s: float = 3600.0) -> str:
        """Ask for the right to produce a key: ``won``, ``hit`` (there is a result) or ``busy`` (another's lease).

        Raises:
            ValueError: an empty key or owner, or a lease that is not positive.
        """
        if not key or not owner:
            raise ValueError(f"key {key!r} and owner {owner!r}: both must be non-empty text")
        if not lease_s > 0:
            raise ValueError(f"lease_s is {lease_s}; a lease lasts some seconds")
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

    def _row(self, db: sqlite3.Connection, key: str, fields: str) -> Any:
        row = db.execute(f"SELECT {fields} FROM keys WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return row

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
