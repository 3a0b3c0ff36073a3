"""Tables of the page, the same for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from septet.launch.report.compare import Comparison
from septet.launch.report.tables import NOT_RUN, Board, Row
from septet.launch.runs import name_of


@dataclass
class Cell:
    """Text with the class that the page's style knows: num, soft, notrun, wrap or nothing."""

    text: str
    kind: str = ""


@dataclass
class Table:
    """Heads and lines of cells."""

    heads: list[str]
    lines: list[list[Cell]]
    name: str = ""


def paper_view(rows: Iterable[Row]) -> Table:
    """Published numbers beside ours, of what was run."""
    heads = ["method", "data set", "metric", "paper", "ours", "seeds", "hardware", "date", "from", "source"]
    lines = [
        _cells(
            [r.method, r.dataset, r.metric, r.paper, r.ours, r.seeds, r.hardware, r.date, r.command, r.source],
            {3: "num", 4: "num", 6: "soft", 7: "soft", 8: "soft wrap", 9: "soft wrap"},
        )
        for r in rows
        if r.ours != NOT_RUN
    ]
    return Table(heads, lines, "paper-against-ours")


def not_run_view(rows: Iterable[Row]) -> Table:
    """Published numbers that no run here stands beside."""
    heads = ["method", "data set", "metric", "paper", "ours", "command", "source"]
    lines = [
        _cells(
            [r.method, r.dataset, r.metric, r.paper, r.ours, r.command, r.source],
            {3: "num", 4: "notrun", 5: "soft wrap", 6: "soft wrap"},
        )
        for r in rows
        if r.ours == NOT_RUN
    ]
    return Table(heads, lines, "published-not-run")


def board_view(board: Board, number: int) -> Table:
    """One leaderboard."""
    heads = ["rank", "method", "model", "run", board.metric, "seeds", "wall", "peak memory", "device", "date"]
    lines = [
        _cells(
            [str(p.rank), p.method, p.model, p.run, p.value, p.seeds, p.wall, p.memory, p.device, p.date],
            {4: "num", 8: "soft", 9: "soft"},
        )
        for p in board.places
    ]
    return Table(heads, lines, f"board-{number}")


def comparison_views(comparison: Comparison) -> list[Table]:
    """Differing settings, then figures; an empty one is left out."""
    parts = [("settings that differ", comparison.settings), ("figures", comparison.figures)]
    return [
        Table(
            [name, *comparison.titles],
            [[Cell(key), *(Cell(text, "wrap") for text in texts)] for key, texts in lines],
            f"compare-{name.split()[0]}",
        )
        for name, lines in parts
        if lines
    ]


def stages_view(records: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the stages of one run cost."""
    heads = ["stage", "status", "data set", "seed", "wall", "peak memory", "device", "commit"]
    return Table(heads, [_stage_cells(stage, record) for stage, record in records.items()])


def _stage_cells(stage: str, record: Mapping[str, Any]) -> list[Cell]:
    cost = record.get("cost") or {}
    memory = cost.get("peak_vram_bytes") or cost.get("peak_rss_bytes") or 0
    commit = str((record.get("git") or {}).get("commit") or "")[:10]
    wall = cost.get("total_wall_s") or cost.get("wall_s", 0)
    texts = [
        stage, str(record.get("status", "")), name_of(record.get("dataset")), str(record.get("seed")),
        f"{wall:.1f} s", f"{memory / 2**20:.0f} MiB", str(cost.get("device", "")), commit,
    ]  # fmt: skip
    return _cells(texts, {6: "soft", 7: "soft"})


def _cells(texts: Sequence[str], kinds: Mapping[int, str]) -> list[Cell]:
    return [Cell(text, kinds.get(index, "")) for index, text in enumerate(texts)]
