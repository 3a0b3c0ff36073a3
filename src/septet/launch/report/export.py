"""The figures of a report for other programs: ``results.csv`` and ``results.json``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from septet.launch.runs import name_of

COLUMNS = (
    "method", "name", "run_id", "stage", "dataset", "model", "seed", "metric", "value", "wall_s", "peak_rss_bytes",
    "peak_vram_bytes", "device", "commit", "finished",
)  # fmt: skip


def write_results(records: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Write one CSV line per figure and the whole records as JSON, each file in one rename.

    Args:
        records: of finished stages.
        out: the report's folder.
    """
    rows = list(records)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in rows:
        writer.writerows(_lines(record))
    for name, text in (("results.csv", buffer.getvalue()), ("results.json", json.dumps(rows, indent=1) + "\n")):
        temporary = out / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)


def _lines(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    cost = record.get("cost") or {}
    base = {
        **{key: record.get(key, "") for key in ("method", "name", "run_id", "stage", "seed", "finished")},
        "dataset": name_of(record.get("dataset")),
        "model": name_of(record.get("model")),
        **{key: cost.get(key, "") for key in ("wall_s", "peak_rss_bytes", "peak_vram_bytes", "device")},
        "commit": str((record.get("git") or {}).get("commit") or ""),
    }
    metrics = record.get("metrics") or {}
    return [{**base, "metric": metric, "value": value} for metric, value in sorted(metrics.items())]
