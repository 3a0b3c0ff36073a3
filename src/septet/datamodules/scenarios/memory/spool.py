"""Spool files: one run writes one JSON Lines file, whole or not at all; a node-local store takes them in later."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from septet.datamodules.scenarios.records import expand, validate_record


class MergeReport(NamedTuple):
    """Observations by fate."""

    new: int
    duplicate: int
    conflicts: int


class IngestReport(NamedTuple):
    """Lines by fate."""

    read: int
    new: int
    duplicate: int
    rejected: int


def write_spool(records: Iterable[Mapping[str, Any]], folder: str | Path, run_id: str) -> Path:
    """Write ``run_id.jsonl``: temporary file, fsync, rename.

    Raises:
        ValueError: a run id that is no plain name, or a record that is not valid.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id):
        raise ValueError(f"run_id is {run_id!r}; use letters, digits, '.', '_' or '-'")
    lines = [json.dumps(validate_record(r), sort_keys=True, ensure_ascii=False, allow_nan=False) for r in records]
    target = Path(folder) / f"{run_id}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write("".join(line + "\n" for line in lines))
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(target)
    return target


class SpoolLine(NamedTuple):
    """One line: its records (several for an exported entry), or the problem with it."""

    number: int
    text: str
    records: list[dict[str, Any]]
    problem: str


def read_spool(path: Path) -> Iterator[SpoolLine]:
    """The lines of a file that are not blank."""
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        line = raw.decode("utf-8", errors="replace")
        if not line.strip():
            continue
        try:
            yield SpoolLine(number, line, expand(json.loads(line)), "")
        except ValueError as error:
            yield SpoolLine(number, line, [], str(error))
