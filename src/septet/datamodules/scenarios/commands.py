"""``septet data verify|generate|prepare|fetch|ingest|retract|export scenarios``: benches and the store of results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from septet.datamodules.scenarios.bench import NAMES, load_bench
from septet.datamodules.scenarios.memory import MnemonicCenter
from septet.datamodules.scenarios.records import canonical_key, plausibility, read_records
from septet.datamodules.scenarios.synthetic import generate_scenarios
from septet.datamodules.scenarios.tables import ledger_records


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action; errors of the user are ValueError."""
    actions = {
        "verify": _verify, "generate": _generate, "prepare": _ingest, "ingest": _ingest, "fetch": _fetch,
        "retract": _retract, "export": _export,
    }  # fmt: skip
    if action not in actions:
        raise ValueError(f"unknown action {action!r}: choose one of {', '.join(actions)}")
    return actions[action](argparse.ArgumentParser(prog=f"septet data {action} scenarios"), argv)


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Sums of the four benches, or the records of files."""
    parser.add_argument(
        "paths", nargs="*", type=Path, help="JSON Lines of records, or stores (.sqlite); none: the benches"
    )
    parser.add_argument("--root", type=Path, help="folder of the full tables; default: the shipped ones")
    options = parser.parse_args(argv)
    if not options.paths:
        for name in NAMES:
            bench = load_bench(name, options.root)
            filled = float(np.isfinite(bench.values).mean())
            size = f"{len(bench.models)} models x {len(bench.columns)} columns"
            print(f"{name}: {size}, {filled:.1%} filled, sum as recorded")
    for path in options.paths:
        if path.suffix == ".sqlite":
            with MnemonicCenter(_present(path)) as store:
                print(f"{path}: {store.check()}, {store.stats()}")
            continue
        if path.is_dir() and not any(path.glob("*.jsonl")):
            raise ValueError(f"{path} holds no *.jsonl of records; to check a folder of full tables: --root {path}")
        records = [record for _, record in read_records(path)]
        verdict = plausibility(records)
        counts = ", ".join(f"{v} {verdict.count(v)}" for v in sorted(set(verdict)))
        print(f"{path}: {len(records)} records, {len({canonical_key(r) for r in records})} keys; {counts}")
    return 0


def _generate(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Write the synthetic bench as an archive."""
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    bench = generate_scenarios(options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.out, values=bench.values, models=np.array(bench.models), columns=np.array(bench.columns)
    )
    print(f"{options.out}: {bench.values.shape[0]} models x {bench.values.shape[1]} columns")
    return 0


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no store {path}; septet data ingest scenarios FOLDER --out {path} makes one")
    return path


def _ingest(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Take a spool folder, and a ledger of runs where given, into a store."""
    parser.add_argument("folder", type=Path, nargs="?", help="folder of JSON Lines files, or one of them")
    parser.add_argument("--ledger", type=Path, help="ledger of runs, such as runs/ledger.sqlite")
    parser.add_argument("--out", type=Path, required=True, help="the store, an SQLite file on a local disk")
    options = parser.parse_args(argv)
    if options.folder is None and options.ledger is None:
        raise ValueError("ingest needs a folder of records or --ledger")
    if options.ledger is not None and not options.ledger.is_file():
        raise ValueError(f"no ledger {options.ledger}")
    if options.folder is not None and not options.folder.exists():
        raise ValueError(f"no spool folder {options.folder}")
    code = 0
    with MnemonicCenter(options.out) as store:
        if options.folder is not None:
            report = store.ingest(options.folder)
            print(report)
            code = _rejections(options.folder) if report.rejected else 0
        if options.ledger is not None:
            keys = [store.write(record) for record in ledger_records(options.ledger)]
            print(f"{options.ledger}: {len(keys)} records, {len(set(keys))} keys")
        print(store.stats())
    return code


def _rejections(folder: Path) -> int:
    """Say which lines were refused, why, and where they lie; 2, for the input was partly wrong."""
    for path in [folder] if folder.is_file() else sorted(folder.glob("*.jsonl")):
        refused = path.parent / "rejected" / path.name
        lines = refused.read_text(encoding="utf-8").splitlines() if refused.is_file() else []
        for line in map(json.loads, lines[:5]):
            print(f"rejected {path}:{line['line']}: {line['problem']}", file=sys.stderr)
        if lines:
            print(f"{len(lines)} rejected lines of {path.name} lie in {refused}", file=sys.stderr)
    return 2


def _retract(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Take results back for good, or put them into quarantine, or open them again."""
    parser.add_argument("store", type=Path)
    parser.add_argument("key", nargs="+")
    parser.add_argument("--reason", help="why; required unless --as stale")
    parser.add_argument("--as", dest="state", choices=("retracted", "quarantined", "stale"), default="retracted")
    options = parser.parse_args(argv)
    with MnemonicCenter(_present(options.store)) as store:
        unknown = [key for key in options.key if store.get(key) is None]
        if unknown:
            raise ValueError(f"no key {unknown[0]} in {options.store}; nothing was changed")
        if options.state != "stale" and not (options.reason or "").strip():
            raise ValueError("say why: --reason TEXT (it stays in the store)")
        for key in options.key:
            if options.state == "stale":
                store.reopen(key)
            elif options.state == "quarantined":
                store.quarantine(key, options.reason)
            else:
                store.retract(key, options.reason)
        print(store.stats())
    return 0


def _export(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Write a store as canonical JSON Lines."""
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    with MnemonicCenter(_present(options.store)) as store:
        print(f"{options.out}: {store.export(options.out)} entries")
    return 0


def _fetch(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Nothing to download: say where the tables come from."""
    parser.parse_args(argv)
    print("the compact tables are part of the package; the full ones are described in tables/ORIGIN.md")
    return 0
