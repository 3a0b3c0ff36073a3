"""``septet data verify|fetch|prepare|generate temporal_graph``."""

from __future__ import annotations

import argparse
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from septet.datamodules.temporal_graph.columns import EXTRAS, check_target, write_columns
from septet.datamodules.temporal_graph.events import EventStream, distinct_ids
from septet.datamodules.temporal_graph.readers import FORMATS, read_events
from septet.datamodules.temporal_graph.sources import SOURCES, check_sum, sha256, source
from septet.datamodules.temporal_graph.splits import dyglib_split
from septet.datamodules.temporal_graph.synthetic import powerlaw_chunks, powerlaw_events, synthetic_events

EVENT_SUFFIXES = (".npz", ".gz", ".csv", ".tsv", ".txt", ".parquet")
OUT_HELP = "the .npz to write, or a folder for columns that are mapped into memory"


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action; errors of the user are ValueError or FileNotFoundError."""
    actions: dict[str, Callable[[argparse.ArgumentParser, Sequence[str]], int]] = {
        "verify": _verify,
        "fetch": _fetch,
        "prepare": _prepare,
        "generate": _generate,
    }
    if action not in actions:
        raise ValueError(f"unknown action {action!r}: choose one of {', '.join(actions)}")
    try:
        return actions[action](argparse.ArgumentParser(prog=f"septet data {action} temporal_graph"), argv)
    except FileNotFoundError:
        raise
    except (OSError, MemoryError, OverflowError) as error:  # one line, as for all that a user can mend
        raise ValueError(f"septet data {action} temporal_graph: {error or type(error).__name__}") from error


def extras(stream: EventStream) -> dict[str, Any]:
    """Label and features of a stream, where it has them."""
    found = ((name, getattr(stream, name)) for name in EXTRAS)
    return {name: values.numpy() for name, values in found if values is not None}


def save_npz(stream: EventStream, path: Path) -> None:
    """Write src, dst, t, and label and features where there are any, as an archive that ``read_events`` reads."""
    narrow = np.int32 if stream.nodes < 2**31 else np.int64
    columns: dict[str, Any] = {
        "src": stream.src.numpy().astype(narrow),
        "dst": stream.dst.numpy().astype(narrow),
        "t": stream.time.numpy(),
        **extras(stream),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **columns)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_out(out: Path, given: Path | None = None) -> None:
    """Raise ValueError where writing to ``out`` would lose something: the input, or what lies there."""
    if given is not None and out.resolve() == given.resolve():
        raise ValueError(f"--out {out} is the input: it would be overwritten; give another name")
    if out.suffix == ".npz":
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: an archive needs a file name")
        return
    if out.suffix in (".csv", ".txt", ".tsv", ".gz", ".parquet", ".npy", ".json", ".pkl"):
        raise ValueError(f"--out {out}: only archives (.npz) and folders of columns (no suffix) are written")
    check_target(out)


def save(stream: EventStream, path: Path) -> str:
    """Write an archive ``.npz``, or without that suffix a folder of columns; the line to print about it."""
    if path.suffix == ".npz":
        save_npz(stream, path)
        return f"{path}: sha256 {sha256(path)}"
    write_columns(path, [[c.numpy() for c in (stream.src, stream.dst, stream.time)]], len(stream), extras(stream))
    return f"{path}: columns {', '.join(sorted(p.name for p in path.glob('*.npy')))}"


def describe(stream: EventStream) -> str:
    """One line of counts."""
    nodes = len(distinct_ids(stream.src, stream.nodes, stream.dst))
    tied = int((stream.time[1:] == stream.time[:-1]).sum())
    loops = int((stream.src == stream.dst).sum())
    return (
        f"{stream.name or 'stream'}: {len(stream):,} events, {nodes:,} nodes (largest id {stream.nodes:,}), "
        f"{loops:,} self-events, {tied:,} share the time before, times {stream.time[0]} .. {stream.time[-1]}"
    )


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Sums of known files and the rules of every stream."""
    parser.add_argument("paths", nargs="+", type=Path, help="event files, a folder of them, or a folder of columns")
    options = parser.parse_args(argv)
    known = {s.file: s.sha256 for s in SOURCES.values() if s.sha256}
    known |= {f"{name}.npz": s.archive_sha256 for name, s in SOURCES.items() if s.archive_sha256}
    for path in (f for p in options.paths for f in _event_files(p)):
        stream = read_events(path)
        if path.name in known:
            check_sum(path, known[path.name])
        try:
            splits = dyglib_split(stream)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        sizes = "/".join(f"{len(part):,}" for part in splits[:5])
        print(f"{describe(stream)}\n  sum {'as recorded' if path.name in known else 'not recorded'}; split {sizes}")
    return 0


def _event_files(path: Path) -> list[Path]:
    """What to verify at ``path``: a file or a folder of columns itself, else the event files of a folder."""
    if not path.is_dir() or _is_columns(path):
        return [path]
    files = [f for f in sorted(path.iterdir()) if _is_columns(f) or (f.is_file() and f.suffix in EVENT_SUFFIXES)]
    if not files:
        raise ValueError(
            f"{path} holds no event files ({', '.join(EVENT_SUFFIXES)}) and no columns src.npy, dst.npy, t.npy"
        )
    return files


def _is_columns(path: Path) -> bool:
    """Whether a folder is one stream."""
    return (path / "src.npy").exists()


def _fetch(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Download from the user's URL, or say where the set is published."""
    parser.add_argument("name", help=f"of {', '.join(SOURCES)}")
    parser.add_argument("--url", help="address of the file; none is built in")
    parser.add_argument("--out", type=Path, default=Path("data/temporal_graph"))
    parser.add_argument("--sha256", help="expected sum; default the recorded one")
    options = parser.parse_args(argv)
    entry = source(options.name)
    if options.url is None:
        print(f"{options.name}: published by {entry.where}; file {entry.file}")
        print(f"  expected sha256 {entry.sha256 or 'unknown'}{'; ' + entry.note if entry.note else ''}")
        print(f"  then: septet data fetch temporal_graph {options.name} --url URL")
        return 0
    target = options.out / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    expected = options.sha256 or entry.sha256
    try:
        with urllib.request.urlopen(options.url) as response, partial.open("wb") as file:
            shutil.copyfileobj(response, file)
        if expected:
            check_sum(partial, expected)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{target}: sha256 {sha256(target)}{'' if expected else ' (no expected sum is recorded)'}")
    return 0


def _prepare(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Convert an event file into the archive that configs read."""
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path, required=True, help=OUT_HELP)
    parser.add_argument("--format", default="auto", choices=FORMATS)
    parser.add_argument("--sha256", help="expected sum of the input")
    parser.add_argument("--id-base", type=int, choices=(0, 1))
    parser.add_argument("--compact", action="store_true", help="number the ids anew, without gaps")
    parser.add_argument("--relative-time", action="store_true", help="subtract the first time")
    options = parser.parse_args(argv)
    if not options.path.exists():
        raise FileNotFoundError(f"no event file {options.path}: check the path")
    check_out(options.out, options.path)
    if options.sha256:
        check_sum(options.path, options.sha256)
    stream = read_events(
        options.path,
        options.format,
        id_base=options.id_base,
        compact=options.compact,
        relative_time=options.relative_time,
    )
    line = save(stream, options.out)
    print(f"{describe(stream)}\n  {line}")
    return 0


def _generate(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Write a seeded synthetic stream."""
    parser.add_argument("--out", type=Path, required=True, help=OUT_HELP)
    parser.add_argument("--kind", choices=("synthetic", "powerlaw"), default="synthetic")
    parser.add_argument("--nodes", type=int, default=600)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed} is negative: give 0 or more")
    check_out(options.out)
    if options.kind == "powerlaw" and options.out.suffix != ".npz":
        write_columns(options.out, powerlaw_chunks(options.nodes, options.events, options.seed), options.events)
        print(f"{options.out}: {options.events:,} events, {options.nodes:,} nodes, seed {options.seed}, in columns")
        return 0
    make = synthetic_events if options.kind == "synthetic" else powerlaw_events
    stream = make(options.nodes, options.events, options.seed)
    line = save(stream, options.out)
    print(f"{describe(stream)}\n  {line}")
    return 0
