"""Readers of event files: dyglib, jodie, snap, csv, npz, parquet and TGB folders; plain or gzipped text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet.datamodules.temporal_graph.columns import read_columns
from septet.datamodules.temporal_graph.events import EventStream
from septet.datamodules.temporal_graph.text import check_rows, numbers, open_text
from septet.datamodules.temporal_graph.tgb_files import edge_list, is_time_first, read_time_first

FORMATS = ("auto", "dyglib", "jodie", "snap", "csv", "npz", "npy", "tgb", "parquet")
FEATURE_WIDTH = 172
SOURCE_NAMES = ("u", "src", "source", "user", "user_id", "from")
TARGET_NAMES = ("i", "dst", "target", "item", "item_id", "to", "destination")
TIME_NAMES = ("ts", "t", "time", "timestamp")
LABEL_NAMES = ("label", "state_label", "y")


def read_events(
    path: str | Path,
    fmt: str = "auto",
    *,
    id_base: int | None = None,
    compact: bool = False,
    relative_time: bool = False,
) -> EventStream:
    """Read a file of events into a stream with ids from 1.

    Args:
        path: the file; text may end in ``.gz``.
        fmt: ``auto`` (by name and header) or one of dyglib (``ml_<name>.csv`` beside its ``.npy`` features), jodie
            (user,item,timestamp,label,features...; two id spaces from 0), snap (blank-separated src dst t), csv
            (columns u,i,ts[,label] by name), npz (src,dst,t[,label]), npy (a folder of src.npy, dst.npy, t.npy, mapped
            into memory), tgb (edge list of TGB, or its folder), parquet.
        id_base: first id of the file, 0 or 1; default 0 if id 0 occurs, else 1.
        compact: number the ids anew, without gaps.
        relative_time: subtract the first time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, missing columns, NaN or decreasing times (``snap`` sorts), negative ids.
    """
    path = Path(path)
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}: choose one of {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"no event file {path}: check the path, or set SEPTET_DATA to the folder of your data")
    if id_base not in (None, 0, 1):
        raise ValueError(f"id_base={id_base}: give 0 or 1")
    fmt = _guess(path) if fmt == "auto" else fmt
    columns = _READERS[fmt](path)
    if len(columns["src"]) == 0:
        raise ValueError(f"{path} holds no events")
    if "skip" in columns:
        check_rows(edge_list(path), columns)
    try:
        return _stream(columns, _name(path), id_base, compact, relative_time)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _name(path: Path) -> str:
    """Name of the data set: the file name without suffixes and without ``ml_``."""
    return path.name.split(".")[0].removeprefix("ml_")


def _guess(path: Path) -> str:
    """Format by suffix and header."""
    suffixes = path.suffixes
    if path.is_dir():
        return "npy" if (path / "src.npy").exists() else "tgb"
    for fmt in ("npz", "parquet"):
        if f".{fmt}" in suffixes:
            return fmt
    with open_text(path) as lines:
        header = lines.readline().strip().lower()
    if "," not in header:
        return "snap"
    if header.startswith("user_id,item_id"):
        return "jodie"
    if header.startswith("source,target"):
        return "snap"
    return "dyglib" if path.name.startswith("ml_") else "csv"


def _column(header: list[str], names: tuple[str, ...], path: Path) -> int:
    """Position of the first known name in the header."""
    for name in names:
        if name in header:
            return header.index(name)
    raise ValueError(f"{path.name}: none of the columns {', '.join(names)} in the header {','.join(header)}")


def _read_csv(path: Path) -> dict[str, Any]:
    """Columns by name; the bitcoin files of SNAP (Source,Target,Weight,Timestamp) included."""
    with open_text(path) as lines:
        header = [cell.strip().lower() for cell in lines.readline().split(",")]
    want = {name: _column(header, names, path) for name, names in _COLUMN_NAMES.items()}
    label = next((header.index(n) for n in LABEL_NAMES if n in header), None)
    used = [*want.values()] + ([] if label is None else [label])
    table = numbers(path, 1, used)
    out: dict[str, Any] = {name: table[:, i] for i, name in enumerate(want)}
    if label is not None:
        out["label"] = table[:, 3]
    return {**out, "skip": 1}


def _read_snap(path: Path) -> dict[str, Any]:
    """Blank-separated ``src dst time``, or the headed CSV of the bitcoin sets; sorted here."""
    with open_text(path) as lines:
        first = lines.readline()
    if "," in first:
        return _sorted(_read_csv(path))
    table = numbers(path, 0, [0, 1, 2], delimiter=None)
    return _sorted({"src": table[:, 0], "dst": table[:, 1], "time": table[:, 2], "skip": 0})


def _sorted(columns: dict[str, Any]) -> dict[str, Any]:
    """All columns in stable time order, and the file's row of each event."""
    order = np.argsort(columns["time"], kind="stable")
    return {**{n: c if n == "skip" else c[order] for n, c in columns.items()}, "row": order}


def _read_jodie(path: Path) -> dict[str, Any]:
    """``user_id,item_id,timestamp,state_label,features...``: items are numbered behind the users."""
    with open_text(path) as lines:
        lines.readline()
        width = len(lines.readline().split(","))
    table = numbers(path, 1, list(range(width)))
    users = table[:, 0].max() + 1
    out = {"src": table[:, 0], "dst": table[:, 1] + users, "time": table[:, 2], "label": table[:, 3], "base": 0}
    out["skip"] = 1
    if width > 4 and bool(table[:, 4:].any()):
        out["edge_feat"] = _padded(np.concatenate([np.zeros((1, width - 4)), table[:, 4:]]))
    return out


def _read_dyglib(path: Path) -> dict[str, Any]:
    """``ml_<name>.csv`` with the features of ``ml_<name>.npy`` and ``ml_<name>_node.npy`` where they lie beside it."""
    out = _read_csv(path)
    stem = path.name.split(".")[0]
    for key, file in (("edge_feat", f"{stem}.npy"), ("node_feat", f"{stem}_node.npy")):
        if (path.parent / file).exists():
            features = np.load(path.parent / file, mmap_mode="r" if len(out["src"]) > 10**7 else None)
            if bool(np.any(features)):
                out[key] = _padded(features)
    return out


def _padded(features: np.ndarray) -> np.ndarray:
    """Features zero-padded to the protocol's 172 columns."""
    if features.shape[1] > FEATURE_WIDTH:
        raise ValueError(f"{features.shape[1]} feature columns: the protocol pads to {FEATURE_WIDTH}, not more")
    out = np.zeros((len(features), FEATURE_WIDTH), dtype=np.float32)
    out[:, : features.shape[1]] = features
    return out


def _read_npz(path: Path) -> dict[str, Any]:
    """Arrays src, dst, t and optionally label."""
    with np.load(path, allow_pickle=False) as archive:
        missing = {"src", "dst", "t"} - set(archive.files)
        if missing:
            raise ValueError(f"{path.name}: array {sorted(missing)[0]!r} is missing (found {', '.join(archive.files)})")
        out = {"src": archive["src"], "dst": archive["dst"], "time": archive["t"]}
        if "label" in archive.files:
            out["label"] = archive["label"]
    return out


def _read_tgb(path: Path) -> dict[str, Any]:
    """An edge list of TGB, or the newest one of its folder; the package is not needed."""
    edges = edge_list(path)
    return read_time_first(edges) if is_time_first(edges) else _read_jodie(edges)


def _read_parquet(path: Path) -> dict[str, Any]:
    """Columns by name from a parquet file."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("parquet needs pyarrow: pip install pyarrow") from error
    table = parquet.read_table(path)
    header = [name.lower() for name in table.column_names]
    out = {name: table.column(_column(header, names, path)).to_numpy() for name, names in _COLUMN_NAMES.items()}
    label = next((header.index(n) for n in LABEL_NAMES if n in header), None)
    if label is not None:
        out["label"] = table.column(label).to_numpy()
    return out


_COLUMN_NAMES = {"src": SOURCE_NAMES, "dst": TARGET_NAMES, "time": TIME_NAMES}
_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "csv": _read_csv,
    "snap": _read_snap,
    "jodie": _read_jodie,
    "dyglib": _read_dyglib,
    "npz": _read_npz,
    "npy": read_columns,
    "tgb": _read_tgb,
    "parquet": _read_parquet,
}


def _stream(columns: dict[str, Any], name: str, id_base: int | None, compact: bool, relative_time: bool) -> EventStream:
    """Checked, sorted, renumbered stream from raw columns."""
    src, dst, time = (np.asarray(columns[k]) for k in ("src", "dst", "time"))
    if time.dtype.kind == "f" and np.isnan(time).any():
        row = int(np.flatnonzero(np.isnan(time))[0])
        raise ValueError(f"{name}: time of event {row} is NaN: remove or repair the event")
    lowest = min(src.min(), dst.min())
    if lowest < 0:
        raise ValueError(f"{name}: node id {int(lowest)} is negative: ids start at 0 or 1")
    base = columns.get("base", id_base if id_base is not None else int(lowest > 0))
    if lowest < base:
        raise ValueError(f"{name}: node id {int(lowest)} is below id_base={base}")
    if time.dtype.kind == "f" and np.array_equal(time, np.floor(time)):
        time = time.astype(np.int64)
    src, dst = (c if c.dtype == np.int64 and base == 1 else c.astype(np.int64) + 1 - base for c in (src, dst))
    if relative_time:
        time = time - time.min()
    feat, nodes, label = columns.get("edge_feat"), columns.get("node_feat"), columns.get("label")
    tensors = [torch.from_numpy(c if c.flags.writeable else c.copy()) for c in (src, dst, time)]
    stream = EventStream(
        tensors[0],
        tensors[1],
        tensors[2],
        num_nodes=None if nodes is None else max(len(nodes) - 1, int(max(src.max(), dst.max()))),
        edge_feat=None if feat is None else torch.from_numpy(np.array(feat)),
        node_feat=None if nodes is None else torch.from_numpy(np.array(nodes)),
        label=None if label is None else torch.from_numpy(np.array(label)),
        name=name,
    )
    return stream.compacted() if compact else stream
