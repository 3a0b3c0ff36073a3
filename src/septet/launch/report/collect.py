"""What a report shows, read from run directories, the ledger and the methods' published numbers."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from septet.launch.methods import METHODS, room
from septet.launch.runs import ledger, runs_root

Key = tuple[str, str, str, str, str]
"""Method, data set, metric, run name, model."""


@dataclass
class RunPage:
    """One run: records of its stages, curves and pictures.

    Attributes:
        path: the run directory.
        records: by stage.
        curves: metric name to (step, value) pairs.
        pictures: PNG files of ``media/``, by name.
        config: text of ``config.yaml``.
    """

    path: Path
    records: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    pictures: list[Path]
    config: str

    @property
    def title(self) -> str:
        """``slug/name/run_id``."""
        return "/".join(self.path.parts[-3:])


@dataclass
class Row:
    """One line of the paper-against-ours table."""

    method: str
    dataset: str
    metric: str
    paper: str
    source: str
    ours: str
    seeds: str
    hardware: str
    date: str
    command: str


@dataclass
class Report:
    """Everything the page shows."""

    rows: list[Row] = field(default_factory=list)
    runs: list[RunPage] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def collect(directories: list[Path], root: Path | None = None) -> Report:
    """Read the given runs, or everything the ledger knows when there are none."""
    pages = [read_run(path) for path in directories]
    if directories:
        records = [r for page in pages for r in page.records.values() if r.get("status") == "finished"]
    else:
        records = ledger(root).rows()
        base = root or runs_root()
        known = {(r["method"], r.get("name", ""), r["run_id"]) for r in records}
        newest = sorted(
            (base / m / n / i for m, n, i in known if n and (base / m / n / i).is_dir()), key=lambda p: p.name
        )
        pages = [read_run(path) for path in newest[-12:]]
    methods = sorted({r["method"] for r in records})
    notes = {m: text for m in methods if (text := _deviations(m))}
    return Report(paper_table(records, methods), pages, records, notes)


def read_run(path: Path) -> RunPage:
    """One run directory; files that are missing leave their part empty."""
    records = {}
    for file in sorted(path.glob("record*.json")):
        record = json.loads(file.read_text())
        records[record["stage"]] = record
    config = path / "config.yaml"
    return RunPage(
        path=path,
        records=records,
        curves=read_curves(path / "metrics.csv"),
        pictures=sorted((path / "media").glob("*.png")),
        config=config.read_text() if config.is_file() else "",
    )


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a metrics file as (step, value) pairs; step columns of single batches and epochs alike."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    if not path.is_file():
        return {}
    with path.open(newline="") as handle:
        for row in csv.DictReader(handle):
            for key, text in row.items():
                if key not in ("step", "epoch") and text not in ("", None):
                    curves[key].append((int(row["step"]), float(text)))
    return dict(curves)


def published(slug: str) -> list[dict[str, Any]]:
    """The method's ``paper.yaml``: dataset, metric, value, source, protocol, config."""
    import yaml

    file = files("septet") / "lightning_modules" / room(slug) / "paper.yaml"
    if slug not in METHODS or not file.is_file():
        return []
    return list(yaml.safe_load(file.read_text()) or [])


def paper_table(records: Iterable[Mapping[str, Any]], methods: Iterable[str]) -> list[Row]:
    """Published numbers beside ours (mean ± std over seeds), then our numbers that have no published one."""
    ours = _pool(records)
    rows: list[Row] = []
    used: set[Key] = set()
    for slug in methods:
        for entry in published(slug):
            wanted = (slug, str(entry["dataset"]), str(entry["metric"]))
            model = entry.get("model")
            found = {k for k in ours if k[:3] == wanted and model in (None, k[4])}
            used |= found
            base = _paper_row(slug, entry)
            rows += [_with_ours(base, ours[k]) for k in sorted(found)] or [base]
    for key in sorted(set(ours) - used):
        base = Row(key[0], key[1], key[2], "–", "", "", "", "", "", "")
        rows.append(_with_ours(base, ours[key]))
    return rows


def _paper_row(slug: str, entry: Mapping[str, Any]) -> Row:
    config = entry.get("config") or ""
    return Row(
        slug, str(entry["dataset"]), str(entry["metric"]), str(entry["value"]), str(entry.get("source", "")),
        "not run", "", "", "", f"septet fit -c configs/{config}" if config else "",
    )  # fmt: skip


def _pool(records: Iterable[Mapping[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Finished evaluations by (method, data set, metric, run name, model); the newest record per seed counts."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        if record.get("stage") not in ("test", "validate"):
            continue
        dataset = record.get("dataset")
        name = dataset.get("name", "") if isinstance(dataset, Mapping) else str(dataset or "")
        block = record.get("model")
        model = str(block.get("name", "")) if isinstance(block, Mapping) else str(block or "")
        for metric, value in (record.get("metrics") or {}).items():
            if value is not None:
                key = (record["method"], name, metric, str(record.get("name", "")), model, record.get("seed"))
                newest[key] = {"value": float(value), "record": record}
    pooled: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for key, item in newest.items():
        pooled[key[:5]].append(item)
    return pooled


def _with_ours(base: Row, pool: list[dict[str, Any]]) -> Row:
    values = [item["value"] for item in pool]
    last = max((item["record"] for item in pool), key=lambda r: str(r.get("finished", "")))
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    seeds = ", ".join(sorted({str(item["record"].get("seed")) for item in pool}))
    return Row(
        base.method, base.dataset, base.metric, base.paper, base.source,
        f"{statistics.fmean(values):.4f}{spread}", seeds, str((last.get("cost") or {}).get("device", "")),
        str(last.get("finished", ""))[:10], f"run {last['method']}/{last.get('name', '')}",
    )  # fmt: skip


def _deviations(slug: str) -> str:
    """The README's section on what differs from the paper, if it has one."""
    file = files("septet") / "lightning_modules" / room(slug) / "README.md"
    if slug not in METHODS or not file.is_file():
        return ""
    parts = file.read_text().split("\n## ")
    chosen = [p for p in parts if any(w in p.splitlines()[0].lower() for w in ("deviation", "differ", "caveat"))]
    return "\n".join(chosen[0].splitlines()[1:]).strip() if chosen else ""
