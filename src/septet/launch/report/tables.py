"""Tables over many runs: published numbers beside ours, and a leaderboard per data set."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from septet.launch.methods import METHODS, room
from septet.launch.runs import name_of

Key = tuple[str, str, str, str, str]
"""Method, data set, metric, run name, model."""
NOT_RUN = "not run"


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
class Place:
    """One line of a leaderboard."""

    rank: int
    method: str
    model: str
    run: str
    value: str
    seeds: str
    wall: str
    memory: str
    device: str
    date: str


@dataclass
class Board:
    """The runs of one data set by their headline metric, best first.

    Attributes:
        dataset: its name.
        metric: as logged, for example ``test/ap``.
        better: ``higher`` or ``lower``.
        places: best first; one for each (method, run name, model), its seeds pooled.
    """

    dataset: str
    metric: str
    better: str
    places: list[Place]


def shown(value: float) -> str:
    """A figure as printed: four decimals, whole numbers with separators from 10,000 on (bytes, counts)."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4f}"


def published(slug: str) -> list[dict[str, Any]]:
    """The method's ``paper.yaml``: dataset, metric, value, source, protocol, config."""
    import yaml

    file = files("septet") / "lightning_modules" / room(slug) / "paper.yaml"
    if slug not in METHODS or not file.is_file():
        return []
    return list(yaml.safe_load(file.read_text()) or [])


def paper_table(records: Iterable[Mapping[str, Any]], methods: Iterable[str]) -> list[Row]:
    """Published numbers beside ours (mean ± std over seeds), then our headline figures that have no published one."""
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
        if not any(_is_headline(item["record"], key[2]) for item in ours[key]):
            continue
        base = Row(key[0], key[1], key[2], "–", "", "", "", "", "", "")
        rows.append(_with_ours(base, ours[key]))
    return rows


def _paper_row(slug: str, entry: Mapping[str, Any]) -> Row:
    config = entry.get("config") or ""
    return Row(
        slug, str(entry["dataset"]), str(entry["metric"]), str(entry["value"]), str(entry.get("source", "")),
        NOT_RUN, "", "", "", command_of(config) if config else "",
    )  # fmt: skip


def command_of(config: str) -> str:
    """The command in the first line of a shipped configuration."""
    file = files("septet") / "configs" / config
    first = file.read_text().split("\n", 1)[0] if file.is_file() else ""
    return first.removeprefix("# ") if first.startswith("# septet ") else f"septet fit -c configs/{config}"


def _pool(records: Iterable[Mapping[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Finished evaluations by (method, data set, metric, run name, model); the newest record per seed counts."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        if record.get("stage") not in ("test", "validate"):
            continue
        name, model = name_of(record.get("dataset")), name_of(record.get("model"))
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
    spread = f" ± {shown(statistics.stdev(values))}" if len(values) > 1 else ""
    seeds = ", ".join(sorted({str(item["record"].get("seed")) for item in pool}))
    return Row(
        base.method, base.dataset, base.metric, base.paper, base.source,
        f"{shown(statistics.fmean(values))}{spread}", seeds, str((last.get("cost") or {}).get("device", "")),
        str(last.get("finished", ""))[:10], f"run {last['method']}/{last.get('name', '')}",
    )  # fmt: skip


def leaderboards(records: Iterable[Mapping[str, Any]]) -> list[Board]:
    """One board for each (data set, headline metric); a record names its headline by ``monitor`` and ``mode``."""
    groups: dict[tuple[str, str, str], list[tuple[float, Place]]] = defaultdict(list)
    for key, pool in _pool(records).items():
        monitors = [item["record"].get("monitor") for item in pool]
        monitor = monitors[-1]
        if monitor is not None and headline(monitor["metric"], key[2].partition("/")[0]) == key[2]:
            groups[key[1], key[2], monitor["mode"]].append(_place(key, pool))
    boards = []
    for (dataset, metric, mode), entries in sorted(groups.items()):
        entries.sort(key=lambda entry: entry[0], reverse=mode == "max")
        for rank, (_, place) in enumerate(entries, start=1):
            place.rank = rank
        better = "higher" if mode == "max" else "lower"
        boards.append(Board(dataset, metric, better, [place for _, place in entries]))
    return boards


def headline(monitor: str, stage: str) -> str:
    """``val/ap`` seen by another stage: ``test/ap``."""
    return f"{stage}/{monitor.partition('/')[2] or monitor}"


def _is_headline(record: Mapping[str, Any], metric: str) -> bool:
    """Whether a figure without a published one belongs into the first table; old records name no headline."""
    monitor = record.get("monitor")
    if monitor is None:
        return not metric.endswith("_std")
    return headline(monitor["metric"], metric.partition("/")[0]) == metric


def _place(key: Key, pool: list[dict[str, Any]]) -> tuple[float, Place]:
    row = _with_ours(Row(*key[:3], "", "", "", "", "", "", ""), pool)
    costs = [item["record"].get("cost") or {} for item in pool]
    wall = statistics.median(float(c.get("wall_s") or 0) for c in costs)
    memory = max(float(c.get("peak_vram_bytes") or c.get("peak_rss_bytes") or 0) for c in costs)
    place = Place(
        0, key[0], key[4], key[3], row.ours, row.seeds, f"{wall:.1f} s", f"{memory / 2**20:.0f} MiB",
        row.hardware, row.date,
    )  # fmt: skip
    return statistics.fmean(item["value"] for item in pool), place
