"""``septet data verify|generate|prepare|fetch scenarios``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from septet.datamodules.scenarios.bench import NAMES, load_bench
from septet.datamodules.scenarios.records import canonical_key, plausibility, read_records
from septet.datamodules.scenarios.synthetic import generate_scenarios


def main(action: str, argv: Sequence[str]) -> int:
    """Run one action; errors of the user are ValueError."""
    actions = {"verify": _verify, "generate": _generate, "prepare": _prepare, "fetch": _fetch}
    if action not in actions:
        raise ValueError(f"unknown action {action!r}: choose one of {', '.join(actions)}")
    return actions[action](argparse.ArgumentParser(prog=f"septet data {action} scenarios"), argv)


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Sums of the four benches, or the records of files."""
    parser.add_argument("paths", nargs="*", type=Path, help="JSON Lines of records; none: the four benches")
    parser.add_argument("--root", type=Path, help="folder of the full tables; default: the shipped ones")
    options = parser.parse_args(argv)
    if not options.paths:
        for name in NAMES:
            bench = load_bench(name, options.root)
            filled = float(np.isfinite(bench.values).mean())
            size = f"{len(bench.models)} models x {len(bench.columns)} columns"
            print(f"{name}: {size}, {filled:.1%} filled, sum as recorded")
    for path in options.paths:
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


def _prepare(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Take a spool folder into a store."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the store, an SQLite file on a local disk")
    options = parser.parse_args(argv)
    from importlib import import_module

    memory = import_module("septet.lightning_modules.smap.memory")
    with memory.MnemonicCenter(options.out) as store:
        print(store.ingest(options.folder), store.stats())
    return 0


def _fetch(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Nothing to download: say where the tables come from."""
    parser.parse_args(argv)
    print("the compact tables are part of the package; the full ones are described in tables/ORIGIN.md")
    return 0
