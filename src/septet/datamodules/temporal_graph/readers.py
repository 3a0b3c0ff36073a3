"""Readers of event files: dyglib, jodie, snap, csv, npz, parquet and TGB folders; plain or gzipped text."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet.datamodules.temporal_graph.checks import (
    LARGEST_ID,
    check_equal_lengths,
    checked_features,
    checked_ids,
    checked_times,
)
from septet.datamodules.temporal_graph.columns import EXTRAS, load_array, read_columns
from septet.datamodules.temporal_graph.events import EventStream
from septet.datamodules.temporal_graph.numbering import Numbering
from septet.datamodules.temporal_graph.text import check_rows, exact, numbers, open_text
from septet.datamodules.temporal_graph.tgb_files import (
    PAIR_NAMES,
    edge_list,
    is_time_first,
    read_named,
    read_time_first,
)
from septet.kernels.hashing.neighbors import check_sorted

FORMATS = ("auto", "dyglib", "jodie", "snap", "csv", "npz", "npy", "tgb", "parquet")
FOLDERS = ("npy", "tgb")
"""Formats whose path may be a folder."""
FEATURE_WIDTH = 172
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
    if id_base not in (None, 0, 1):
        raise ValueError(f"id_base={id_base}: give 0 or 1")
    columns = _raw(path, fmt)
    try:
        return _stream(columns, _name(path), id_base, compact, relative_time)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_pairs(path: str | Path, numbering: Numbering) -> dict[str, Any]:
    """Pairs to ask about: src, dst ``(E,)`` in the ids of the file (positions of names from 0), and times.

    Args:
        path: columns u,i,ts in any of the formats; the other columns of a jodie or dyglib file are not read.
        numbering: of the stream; where it has names, ends are names in a CSV.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`read_events`; a name that the stream does not have.
    """
    path = Path(path)
    columns = read_named(path, numbering.names) if numbering.names is not None else _raw(path, "auto", pairs=True)
    try:
        out = {name: checked_ids(name, columns[name]) for name in ("src", "dst")}
        out["time"] = checked_times(columns["time"])
        check_equal_lengths(out)
        check_sorted(torch.from_numpy(out["time"]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return out


def _raw(path: Path, fmt: str, *, pairs: bool = False) -> dict[str, Any]:
    """Columns as they stand in the file; every fault names it."""
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}: choose one of {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"no event file {path}: check the path, or set SEPTET_DATA to the folder of your data")
    if path.is_dir() and fmt not in ("auto", *FOLDERS):
        raise ValueError(f"{path} is a folder: give the {fmt} file in it, or source {' or '.join(FOLDERS)}")
    if not path.is_dir() and fmt == "npy":
        raise ValueError(f"{path} is a file: npy reads a folder of src.npy, dst.npy, t.npy")
    try:
        fmt = _guess(path) if fmt == "auto" else fmt
        columns = _READERS["csv" if pairs and fmt in ("jodie", "dyglib") else fmt](path)
        if len(columns["src"]) == 0:
            raise ValueError(f"{path} holds no events")
        if "skip" in columns:
            check_rows(edge_list(path), columns)
    except (FileNotFoundError, ImportError):
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: write it as UTF-8, or name its format") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as {fmt}: {error}; is the file whole?") from error
    except ValueError as error:
        raise error if path.name in str(error) else ValueError(f"{path}: {error}") from error
    return columns


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
        if ";" in header:
            raise ValueError(f"{path}: columns are separated by ';': write commas")
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
    if len(header) == 1 and ";" in header[0]:
        raise ValueError(f"{path}: columns are separated by ';': write commas")
    want = {name: _column(header, names, path) for name, names in _COLUMN_NAMES.items()}
    label = next((header.index(n) for n in LABEL_NAMES if n in header), None)
    used = [*want.values()] + ([] if label is None else [label])
    table = numbers(path, 1, used)
    out: dict[str, Any] = {n: exact(path, 1, at, table[:, i]) for i, (n, at) in enumerate(want.items())}
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
    columns = (exact(path, 0, i, table[:, i], delimiter=None) for i in range(3))
    return _sorted({**dict(zip(("src", "dst", "time"), columns, strict=True)), "skip": 0})


def _sorted(columns: dict[str, Any]) -> dict[str, Any]:
    """All columns in stable time order, and the file's row of each event."""
    order = np.argsort(columns["time"], kind="stable")
    return {**{n: c if n == "skip" else c[order] for n, c in columns.items()}, "row": order}


def _read_jodie(path: Path) -> dict[str, Any]:
    """``user_id,item_id,timestamp,state_label,features...``: items are numbered behind the users."""
    table = numbers(path, 1)
    if table.size == 0:
        raise ValueError(f"{path} holds no events")
    width = table.shape[1]
    if width < 4:
        raise ValueError(f"{path}: {width} columns; jodie has user_id,item_id,timestamp,state_label[,features...]")
    src, dst, time = (exact(path, 1, i, table[:, i]) for i in range(3))
    out = {"src": src, "dst": dst, "time": time, "label": table[:, 3], "base": 0, "apart": True, "skip": 1}
    if width > 4 and bool(table[:, 4:].any()):
        out["edge_feat"] = _padded("edge features", np.concatenate([np.zeros((1, width - 4)), table[:, 4:]]))
    return out


def _read_dyglib(path: Path) -> dict[str, Any]:
    """``ml_<name>.csv`` with the features of ``ml_<name>.npy`` and ``ml_<name>_node.npy`` where they lie beside it."""
    out = _read_csv(path)
    stem = path.name.split(".")[0]
    for key, file in (("edge_feat", f"{stem}.npy"), ("node_feat", f"{stem}_node.npy")):
        if (path.parent / file).exists():
            features = load_array(path.parent / file, "r" if len(out["src"]) > 10**7 else None)
            features = checked_features(file, features)
            if bool(np.any(features)):
                out[key] = _padded(file, features)
    return out


def _padded(name: str, features: np.ndarray) -> np.ndarray:
    """Features zero-padded to the protocol's 172 columns."""
    if features.shape[1] > FEATURE_WIDTH:
        raise ValueError(f"{name}: {features.shape[1]} feature columns: the protocol pads to {FEATURE_WIDTH}, not more")
    out = np.zeros((len(features), FEATURE_WIDTH), dtype=np.float32)
    out[:, : features.shape[1]] = features
    return out


def _read_npz(path: Path) -> dict[str, Any]:
    """Arrays src, dst, t and optionally label, edge_feat, node_feat."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz archive: write it with numpy.savez(path, src=..., dst=..., t=...)")
    with np.load(path, allow_pickle=False) as archive:
        missing = {"src", "dst", "t"} - set(archive.files)
        if missing:
            raise ValueError(f"{path.name}: array {sorted(missing)[0]!r} is missing (found {', '.join(archive.files)})")
        stored = {"src": "src", "dst": "dst", "time": "t", **{name: name for name in EXTRAS}}
        try:
            return {name: archive[stem] for name, stem in stored.items() if stem in archive.files}
        except ValueError as error:
            raise ValueError(f"{path}: an array cannot be read as numbers ({error})") from error


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


_COLUMN_NAMES = dict(zip(("src", "dst", "time"), PAIR_NAMES, strict=True))
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
    src, dst = (checked_ids(n, columns[n]) for n in ("src", "dst"))
    time = checked_times(columns["time"])
    check_equal_lengths(columns)
    lowest = min(int(src.min()), int(dst.min()))
    base = columns.get("base", id_base if id_base is not None else int(lowest > 0))
    if lowest < base:
        raise ValueError(f"node id {lowest} is below id_base={base}")
    users = int(src.max()) + 1 if columns.get("apart") else 0  # items are numbered behind the users
    largest = max(int(src.max()), int(dst.max()) + users)
    if largest > LARGEST_ID and not compact:
        raise ValueError(
            f"node id {largest} is above {LARGEST_ID}, and every id takes memory: number the ids anew "
            "(compact=True; septet data prepare ... --compact)"
        )
    numbering = Numbering(1 - base, 1 - base + users, users, names=columns.get("names"))
    src, dst = (c if shift == 0 else c + shift for c, shift in ((src, numbering.src_shift), (dst, numbering.dst_shift)))
    if relative_time:
        time = time - time.min()
    feat, nodes = (checked_features(n, columns[n]) if n in columns else None for n in ("edge_feat", "node_feat"))
    label = columns.get("label")
    if label is not None and np.asarray(label).dtype.kind not in "iufb":
        raise ValueError(f"label holds {np.asarray(label).dtype}, expected numbers")
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
        numbering=numbering,
    )
    return stream.compacted() if compact else stream
