"""Run directories ``runs/<slug>/<name>/<run_id>/`` and the ledger of finished evaluations."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError, did_you_mean

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def runs_root() -> Path:
    """``$SEPTET_RUNS`` or ``runs`` under the working directory."""
    return Path(os.environ.get("SEPTET_RUNS", "runs"))


def new_run_id() -> str:
    """``YYYYMMDD-HHMMSS-xxxx`` in UTC with four random hexadecimal digits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def create_run(root: Path, slug: str, name: str, run_id: str | None = None) -> Path:
    """Make ``root/slug/name/run_id`` and return it.

    Args:
        root: the folder of all runs.
        slug: the method, or ``user`` for somebody's own module.
        name: of the experiment; usually the stem of its configuration.
        run_id: None for a new one; a given id resumes its directory.

    Raises:
        FileExistsError: if a new run meets a directory with history.
        ValueError: if a part is not a plain name, or the directory cannot be written.
    """
    chosen = run_id or new_run_id()
    for part in (slug, name, chosen):
        check_name(part)
    path = Path(root) / slug / name / chosen
    if run_id is None and path.exists():
        raise FileExistsError(f"run directory {path} exists already; give another --name or resume it with --run")
    try:
        for folder in ("checkpoints", "media", "env"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"run directory {path} cannot be written ({error.strerror}); set SEPTET_RUNS or free it"
        ) from error
    return path


def check_name(part: str) -> None:
    """Refuse a name that is no plain folder name (UsageError)."""
    if not _SAFE.match(part):
        raise UsageError(f"run name part {part!r} must be letters, digits, '.', '_' or '-' (see --name)")


def choose_run(run: Path | None, slug: str, name: str, *, fast: bool = False) -> tuple[Path, bool]:
    """The run directory of this process and whether it continues an earlier one.

    All ranks and restarts agree through ``SEPTET_RUN_DIR`` (ranks) and ``SEPTET_RUN_ID`` (restarts).

    Args:
        run: an existing run's directory, or None for a new one.
        slug: the method.
        name: of a new run.
        fast: a throw-away folder (``fast_dev_run``).
    """
    inherited = os.environ.get("SEPTET_RUN_DIR")
    if inherited:
        return Path(inherited), False
    if fast:
        return Path(tempfile.mkdtemp(prefix="septet-fast-")), False
    if run is not None:
        path, resumed = create_run(run.parents[2], run.parents[1].name, run.parent.name, run.name), True
    else:
        run_id = os.environ.get("SEPTET_RUN_ID")
        if run_id is None and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_JOB_ID" in os.environ:
            run_id = f"slurm-{os.environ['SLURM_JOB_ID']}"
        resumed = run_id is not None and (runs_root() / slug / name / run_id / "config.yaml").is_file()
        path = create_run(runs_root().resolve(), slug, name, run_id or new_run_id())
    os.environ["SEPTET_RUN_DIR"] = str(path)
    return path, resumed


def remove_unused(run: Path) -> None:
    """Delete a run directory that never began, and its empty parents."""
    shutil.rmtree(run, ignore_errors=True)
    for folder in (run.parent, run.parent.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def find_run(run: str, root: Path | None = None, *, weights: bool = False) -> Path:
    """The directory of a run given as a directory, a run id, or ``slug/name`` (its newest run).

    Args:
        run: as the user typed it.
        root: folder of all runs.
        weights: of a ``slug/name``, the newest run that has checkpoints, if any has.

    Raises:
        UsageError: if there is none; the nearest known name is suggested.
    """
    base = root or runs_root()
    direct = Path(run)
    if (direct / "config.yaml").is_file() or (direct / "record.json").is_file():
        return direct.resolve()
    candidates = [p for p in base.glob("*/*/*") if (p / "config.yaml").is_file()]
    by_id = [p for p in candidates if p.name == run]
    by_name = sorted((p for p in candidates if f"{p.parent.parent.name}/{p.parent.name}" == run), key=lambda p: p.name)
    trained = [p for p in by_name if weights and any((p / "checkpoints").glob("*.ckpt"))]
    found = by_id or trained or by_name
    if found:
        return found[-1].resolve()
    known = {f"{p.parent.parent.name}/{p.parent.name}" for p in candidates}
    hint = did_you_mean(run, known) if known else f"; there are no runs under {base}"
    raise UsageError(f"no run {run!r}{hint} (a directory, a run id, or slug/name)")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole and then rename it into place, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
    temporary.replace(path)


def read_record(file: Path) -> dict[str, Any]:
    """A run's record.

    Raises:
        UsageError: if the file is damaged.
    """
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"the record {file} cannot be read ({error}); remove it, or run that stage again") from error
    kinds = {"method": str, "stage": str, "metrics": dict}
    missing = [k for k, kind in kinds.items() if not isinstance(record, dict) or not isinstance(record.get(k), kind)]
    if missing:
        raise UsageError(f"the record {file} has no {missing[0]}; remove it, or run that stage again")
    return record  # type: ignore[no-any-return]


class Ledger:
    """One row per finished evaluation, in SQLite (WAL); safe with many writers.

    Where the file system refuses WAL, rows are single JSON files in ``<stem>.d`` beside it and merged on read.

    Args:
        path: of the database; created on the first :meth:`add`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.with_suffix(".d")

    def check(self) -> None:
        """Name a file that is no ledger before any long work.

        Raises:
            UsageError: if the file exists and is no SQLite database.
        """
        if self.path.is_file():
            with self.path.open("rb") as handle:
                if handle.read(16) != b"SQLite format 3\x00":
                    kind = "empty" if self.path.stat().st_size == 0 else "no SQLite database"
                    raise UsageError(f"the ledger {self.path} is {kind}; move it away, a new one is made")

    def _connect(self) -> sqlite3.Connection | None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode.lower() != "wal":
                raise sqlite3.OperationalError(f"journal mode is {mode}")
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS runs (run_id TEXT, stage TEXT, dataset TEXT, method TEXT, finished TEXT, "
                "record TEXT, UNIQUE (run_id, stage, dataset) ON CONFLICT REPLACE)"
            )
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                raise
            return None
        return connection

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record in one transaction; the same (run_id, stage, dataset) replaces.

        Raises:
            ValueError: if run_id, method or stage is missing.
        """
        for key in ("run_id", "method", "stage"):
            if not record.get(key):
                raise ValueError(f"a ledger record needs {key!r}, got {record.get(key)!r}")
        dataset = name_of(record.get("dataset"))
        text = json.dumps(record, allow_nan=False, default=str)
        connection = self._connect()
        if connection is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", f"{record['run_id']}--{record['stage']}--{dataset}")
            write_json(self.folder / f"{safe}.json", record)
            return
        with closing(connection):
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                (record["run_id"], record["stage"], dataset, record["method"], str(record.get("finished", "")), text),
            )

    def rows(self, method: str | None = None, dataset: str | None = None) -> list[dict[str, Any]]:
        """All records, oldest first, optionally of one method or one data set."""
        records: list[dict[str, Any]] = []
        self.check()
        if self.path.is_file():
            connection = sqlite3.connect(self.path, timeout=30)
            with closing(connection):
                cursor = connection.execute("SELECT record FROM runs ORDER BY finished, run_id")
                records = [json.loads(text) for (text,) in cursor]
        if self.folder.is_dir():
            records += [json.loads(p.read_text()) for p in sorted(self.folder.glob("*.json"))]
        return [
            r
            for r in records
            if (method is None or r["method"] == method) and (dataset is None or name_of(r.get("dataset")) == dataset)
        ]


def ledger(root: Path | None = None) -> Ledger:
    """The ledger of a folder of runs."""
    return Ledger((root or runs_root()) / "ledger.sqlite")


def name_of(block: Any) -> str:
    """Name of a record's data set or model, which is a string or a mapping with ``name``."""
    return str(block.get("name", "")) if isinstance(block, Mapping) else str(block or "")
