"""TGB's own files without its package: the edge list of a data set, and the negative lists beside it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from septet.datamodules.temporal_graph.text import open_text

TIME_FIRST = ("ts", "time", "timestamp", "day")


def _version(path: Path) -> int:
    """Version in a file name such as ``tgbl-wiki_edgelist_v2.csv``; 1 where there is none."""
    found = re.search(r"_v(\d+)\.", path.name)
    return int(found.group(1)) if found else 1


def edge_list(path: Path) -> Path:
    """The edge list at ``path``, or the newest version in that folder.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if not path.is_dir():
        return path
    found = [p for p in path.glob("*_edgelist*.csv*") if "static" not in p.name]
    if not found:
        raise FileNotFoundError(f"{path} holds no *_edgelist.csv: unpack the archive of the TGB set there")
    return max(found, key=_version)


def negative_pattern(path: Path) -> str | None:
    """Pattern with ``{split}`` of the negative lists beside an edge list, of the same version; None without them."""
    edges = edge_list(path)
    stem, suffix = edges.name.split("_edgelist")[0], f"_v{_version(edges)}" if _version(edges) > 1 else ""
    pattern = edges.parent / f"{stem}_{{split}}_ns{suffix}.pkl"
    return str(pattern) if all(Path(str(pattern).format(split=s)).exists() for s in ("val", "test")) else None


def is_time_first(path: Path) -> bool:
    """Whether rows read time, source, destination, weight ... (coin, review, comment, flight), not as JODIE's."""
    with open_text(path) as lines:
        return lines.readline().split(",")[0].strip().lower() in TIME_FIRST


def read_time_first(path: Path) -> dict[str, Any]:
    """Rows ``time,source,destination,...`` whose nodes have names: numbered as they appear, source before destination.

    Raises:
        ValueError: a time is not a number, or a row is short; with its line.
    """
    numbers: dict[str, int] = {}
    times: list[float] = []
    ends: tuple[list[int], list[int]] = ([], [])
    with open_text(path) as lines:
        rows = csv.reader(lines)
        next(rows)
        for row in rows:
            try:
                times.append(float(row[0]))
                names = row[1], row[2]
            except (ValueError, IndexError) as error:
                message = f"{path.name}, line {rows.line_num}: {row[:3]} is not time in seconds, source, destination"
                raise ValueError(message) from error
            for side, name in zip(ends, names, strict=True):
                side.append(numbers.setdefault(name, len(numbers)))
    return {"src": np.array(ends[0]), "dst": np.array(ends[1]), "time": np.array(times), "base": 0, "skip": 1}
