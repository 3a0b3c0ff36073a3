"""TGB's own files without its package: the edge list of a data set, and the negative lists beside it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from septet.datamodules.temporal_graph.text import open_text

TIME_FIRST = ("ts", "time", "timestamp", "day")
SOURCE_NAMES = ("u", "src", "source", "user", "user_id", "from")
TARGET_NAMES = ("i", "dst", "target", "item", "item_id", "to", "destination")
TIME_NAMES = ("ts", "t", "time", "timestamp")
PAIR_NAMES = (SOURCE_NAMES, TARGET_NAMES, TIME_NAMES)


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
    times: list[int | float] = []
    ends: tuple[list[int], list[int]] = ([], [])
    with open_text(path) as lines:
        rows = csv.reader(lines)
        next(rows)
        for row in rows:
            try:
                times.append(_number(row[0]))
                names = row[1], row[2]
            except (ValueError, IndexError) as error:
                message = f"{path.name}, line {rows.line_num}: {row[:3]} is not time in seconds, source, destination"
                raise ValueError(message) from error
            for side, name in zip(ends, names, strict=True):
                side.append(numbers.setdefault(name, len(numbers)))
    src, dst = (np.array(side, dtype=np.int64) for side in ends)
    return {"src": src, "dst": dst, "time": np.array(times), "base": 0, "skip": 1, "names": tuple(numbers)}


def _number(text: str) -> int | float:
    """A number, whole ones exactly."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_named(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Columns u,i,ts of a CSV whose ends are names: positions in ``names``, and times.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row is short, its time no number or its name unknown; with its line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of pairs {path}: give a CSV with the columns u,i,ts")
    place = {name: at for at, name in enumerate(names)}
    out: dict[str, list[Any]] = {"src": [], "dst": [], "time": []}
    with open_text(path) as lines:
        rows = csv.reader(lines)
        header = [cell.strip().lower() for cell in next(rows, [])]
        used = [next((header.index(n) for n in known if n in header), -1) for known in PAIR_NAMES]
        if -1 in used:
            raise ValueError(f"{path}: columns u,i,ts expected, found {','.join(header)}")
        for row in rows:
            try:
                u, i, t = (row[at] for at in used)
                known = place[u], place[i], _number(t)
            except KeyError as error:
                raise ValueError(f"{path}, line {rows.line_num}: the stream has no node {error}") from error
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {row[:3]} is not u,i,ts") from error
            for column, value in zip(out.values(), known, strict=True):
                column.append(value)
    if not out["src"]:
        raise ValueError(f"{path} holds no pairs")
    return {name: np.array(column) for name, column in out.items()}
