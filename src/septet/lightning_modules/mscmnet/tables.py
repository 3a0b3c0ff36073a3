"""Tables of a tested model: every setting, query cameras, worst queries; for W&B and a local page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from septet.lightning_modules.mscmnet.pictures import FirstTrial, camera_rows

WORST = 50


class Table(NamedTuple):
    """A named table of plain values."""

    name: str
    columns: list[str]
    rows: list[list[Any]]


def settings(values: Mapping[str, Mapping[str, Tensor]]) -> Table:
    """Every figure of every setting in per cent: mean over trials and deviation."""
    keys = [k for k in next(iter(values.values())) if not k.endswith("_std")]
    columns = ["setting", *(name for k in keys for name in (k, f"{k} std"))]
    rows = [
        [setting, *(round(100 * float(row[name]), 2) for k in keys for name in (k, f"{k}_std"))]
        for setting, row in values.items()
    ]
    return Table("settings", columns, rows)


def cameras(first: FirstTrial) -> Table:
    """Rank-1 and mAP in per cent by query camera."""
    rows = [[c, n, round(100 * r, 1), round(100 * m, 1)] for c, n, r, m in camera_rows(first.result, first.query)]
    return Table("query_cameras", ["camera", "queries", "rank-1", "mAP"], rows)


def worst(first: FirstTrial, evaluation: Any, most: int = WORST) -> Table:
    """Queries with the lowest AP: file, rank of the first match, AP in per cent."""
    result, query = first.result, first.query
    rows = [
        [evaluation.query[int(query.place[i])].path, int(result.rank[i]) + 1, round(100 * float(result.ap[i]), 1)]
        for i in first.worst_first[:most]
    ]
    return Table("worst_query_files", ["query", "first match at", "AP"], rows)


def figure(tables: Sequence[Table]) -> Any:
    """Tables as a picture, for the report."""
    from matplotlib.figure import Figure

    lines = [len(t.rows) + 2 for t in tables]
    width = max(1.2 + 0.75 * len(t.columns) for t in tables)
    picture = Figure(figsize=(width, 0.28 * sum(lines)), layout="constrained")
    for axis, entry in zip(picture.subplots(len(tables), height_ratios=lines, squeeze=False).flat, tables, strict=True):
        axis.set_axis_off()
        axis.set_title(entry.name.replace("_", " "), loc="left", fontsize=9)
        cells = [[str(value) for value in r] for r in entry.rows]
        drawn = axis.table(cellText=cells, colLabels=entry.columns, loc="upper center", cellLoc="right")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8)
        drawn.auto_set_column_width(list(range(len(entry.columns))))
    return picture


def page(tables: Sequence[Table], title: str) -> str:
    """A local HTML page of the tables."""
    head = "<!doctype html><meta charset='utf-8'><title>ranking</title><style>td,th{padding:2px 8px}</style>"
    body = "".join(f"<h2>{html.escape(t.name.replace('_', ' '))}</h2>{_table(t)}" for t in tables)
    return f"{head}<h1>{html.escape(title)}; cameras and queries of the first trial</h1>{body}"


def _table(table: Table) -> str:
    top = "".join(f"<th>{html.escape(str(c))}" for c in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(str(v))}</td>' for v in row)}</tr>" for row in table.rows)
    return f"<table><tr>{top}</tr>{rows}</table>"
