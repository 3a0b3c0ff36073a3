"""Read an offline W&B run file: a 7-byte header, then 32 KiB blocks of records."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    """Every ``Record`` protobuf of a ``run-<id>.wandb`` file.

    Each piece has a header of crc32 u32, length u16, type u8: 1 whole, 2 first, 3 middle, 4 last.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data = path.read_bytes()
    if data[:4] != b":W&B":  # nothing was flushed before the service died
        return
    at, parts = 7, b""
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if kind == 0:
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(path: Path) -> Iterator[dict[str, str]]:
    """Logged rows of a file, values as JSON text."""
    for record in records(path):
        if record.HasField("history"):
            yield {i.nested_key[0] if i.nested_key else i.key: i.value_json for i in record.history.item}


def logged_steps(run: Path) -> set[tuple[int, str]] | None:
    """(global step, metric) pairs that the offline files of a run directory hold; None without such files."""
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    if not files:
        return None
    found: set[tuple[int, str]] = set()
    for file in files:
        for row in history(file):
            step = int(float(row.get("trainer/global_step", "-1")))
            found |= {(step, key) for key in row}
    return found
