"""Associative recall: the nearest stored embeddings of done keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from septet.datamodules.scenarios.memory.claims import Claims


class Vectors(Claims):
    """Embeddings of a store, a cache with a generation id."""

    _matrix: tuple[int, list[str], list[str], Any] | None = None
    _norm: tuple[Any, Any] | None = None

    def index(self, keys: Sequence[str], vectors: Any, generation: int) -> None:
        """Store embeddings ``(N, D)`` of done keys; those of other generations are dropped (they are a cache).

        Raises:
            ValueError: lengths, or vectors that are not finite.
            KeyError: a key that the store does not hold.
        """
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.ndim != 2 or len(array) != len(keys) or not np.isfinite(array).all():
            raise ValueError(f"vectors {array.shape} must be finite, one row for each of the {len(keys)} keys")
        with self._store.write() as db:
            held = {k for (k,) in db.execute("SELECT key FROM keys")}
            unknown = next((k for k in keys if k not in held), None)
            if unknown is not None:
                raise KeyError(unknown)
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


def canonical_group(record: Mapping[str, Any]) -> str:
    """Base data set of a record: its group, else its name, case folded."""
    dataset = record["dataset"]
    return str(dataset.get("group") or dataset.get("name")).casefold()
