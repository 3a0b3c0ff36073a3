"""The mnemonic center: a persistent associative memory of results that never stores one match twice. No torch."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from septet.datamodules.scenarios.memory.exchange import Exchange
from septet.datamodules.scenarios.memory.vectors import Vectors

_LARGEST_SNAPSHOT = 50 * 2**20


class MnemonicCenter(Exchange, Vectors):
    """Keys, observations and vectors in one SQLite file (specification, section 7).

    WAL is unsafe on network file systems: there, processes write spool files and a node-local store ingests them.

    Args:
        path: of the store; made when absent.
        busy_timeout_s: how long to wait for another writer.
        clock: seconds, for leases.

    Raises:
        ValueError: a foreign file, or a store of a newer schema.
    """

    def __enter__(self) -> MnemonicCenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """uuid, generation, and the compressed snapshot with its sum (None above 50 MB), for a checkpoint."""
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
