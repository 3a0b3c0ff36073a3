"""What a report shows, read from run directories and the ledger."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError
from septet.launch.methods import METHODS, room
from septet.launch.report.compare import Comparison, compare
from septet.launch.report.tables import Board, Row, leaderboards, paper_table
from septet.launch.runs import ledger, read_record, runs_root


@dataclass
class RunPage:
    """One run: records of its stages, curves and pictures.

    Attributes:
        path: the run directory.
        records: by stage.
        curves: metric name to (step, value) pairs.
        pictures: PNG files of ``media/``, by name.
        videos: its mp4 files.
        config: text of ``config.yaml``.
    """

    path: Path
    records: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    pictures: list[Path]
    config: str
    videos: list[Path] = field(default_factory=list)

    @property
    def title(self) -> str:
        """``slug/name/run_id``."""
        return "/".join(self.path.parts[-3:])


@dataclass
class Report:
    """Everything the page shows."""

    rows: list[Row] = field(default_factory=list)
    boards: list[Board] = field(default_factory=list)
    comparison: Comparison | None = None
    runs: list[RunPage] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def collect(directories: list[Path], root: Path | None = None) -> Report:
    """Read the given runs, or everything the ledger knows when there are none."""
    faults: list[str] = []
    if directories:
        pages = [read_run(path) for path in dict.fromkeys(directories)]
        records = [r for page in pages for r in page.records.values() if r.get("status") == "finished"]
    else:
        records = ledger(root).rows()
        base = root or runs_root()
        known = {(r["method"], r.get("name", ""), r["run_id"]) for r in records}
        newest = sorted(
            (base / m / n / i for m, n, i in known if n and (base / m / n / i).is_dir()), key=lambda p: p.name
        )
        pages, faults = _readable(newest[-12:])
    ran = {r["method"] for r in records}
    methods = sorted(ran if directories else ran | set(METHODS))
    notes = {m: text for m in sorted(ran) if (text := _deviations(m))}
    comparison = compare(pages) if directories and len(pages) > 1 else None
    return Report(paper_table(records, methods), leaderboards(records), comparison, pages, records, notes, faults)


def _readable(directories: list[Path]) -> tuple[list[RunPage], list[str]]:
    """The pages that can be read, and a sentence for each that cannot."""
    pages, faults = [], []
    for path in directories:
        try:
            pages.append(read_run(path))
        except UsageError as error:
            faults.append(str(error))
    return pages, faults


def read_run(path: Path) -> RunPage:
    """One run directory; files that are missing leave their part empty.

    Raises:
        UsageError: naming a file that is damaged.
    """
    records = {}
    for file in sorted(path.glob("record*.json")):
        record = read_record(file)
        records[record["stage"]] = record
    config = path / "config.yaml"
    return RunPage(
        path=path,
        records=records,
        curves=read_curves(path / "metrics.csv"),
        pictures=sorted((path / "media").glob("*.png")),
        config=config.read_text() if config.is_file() else "",
        videos=sorted((path / "media").glob("*.mp4")),
    )


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a metrics file as (step, value) pairs; step columns of single batches and epochs alike."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    if not path.is_file():
        return {}
    try:
        with path.open(newline="") as handle:
            for row in csv.DictReader(handle):
                for key, text in row.items():
                    if key not in ("step", "epoch") and text not in ("", None):
                        curves[key].append((int(row["step"]), float(text)))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"the curves {path} cannot be read ({error}); move the file away") from error
    return dict(curves)


def _deviations(slug: str) -> str:
    """The README's section on what differs from the paper, if it has one."""
    file = files("septet") / "lightning_modules" / room(slug) / "README.md"
    if slug not in METHODS or not file.is_file():
        return ""
    parts = file.read_text().split("\n## ")
    chosen = [p for p in parts if any(w in p.splitlines()[0].lower() for w in ("deviation", "differ", "caveat"))]
    return "\n".join(chosen[0].splitlines()[1:]).strip() if chosen else ""
