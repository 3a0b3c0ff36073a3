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
    assert data[:4] == b":W&B", "not an offline W&B file"
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


def run_file(run: Path) -> Path:
    """The newest offline file below a run directory."""
    return max(run.rglob("run-*.wandb"), key=lambda p: p.stat().st_mtime)
