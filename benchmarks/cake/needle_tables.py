"""Record, Markdown tables and pictures from the finished cells of a needle run (``septet test`` writes them).

Usage: python benchmarks/cake/needle_tables.py RUN_FOLDER [--out FOLDER] [--name smollm2-needle] [--date YYYY-MM-DD]

Reads ``RUN_FOLDER/cells.jsonl`` (every finished cell once, also those of a killed run) and the run's record; writes
``FOLDER/<date>-<name>.json`` and ``FOLDER/<name>.png`` and prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from septet.lightning_modules.cake.grid import CellFile
from septet.lightning_modules.cake.metrics import NeedleGrid

Cell = dict[str, Any]
NOTE = (
    "question-aware: the question stands before the compression; CAKE's tau 1, 1, not tuned; tokens_per_s: one timed "
    "prompt per length; score_and_trim_s: policies that score alike share the scores, the first of a kind pays; bytes: "
    "median; two shared x86 cores, one thread, other jobs running: speeds are lower bounds"
)
DRAWN = (128, 256, 512)
"""Capacities of the picture."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the record and the picture, print the tables."""
    parser = argparse.ArgumentParser(description="Tables and pictures of a needle run.")
    parser.add_argument("run", type=Path, help="folder of the run (holds cells.jsonl)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cake"))
    parser.add_argument("--name", default="smollm2-needle")
    parser.add_argument("--date", help="of the record; default: when the last cell was written")
    options = parser.parse_args(argv)
    file = options.run / "cells.jsonl"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; give the folder of a `septet test` run")
    cells = summarise(list(CellFile(file).cells.values()))
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    date = options.date or f"{written:%Y-%m-%d}"
    record = {"benchmark": f"cake {options.name}", "date": date, **described(options.run), "note": NOTE, "cells": cells}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{date}-{options.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(tables(cells)))
    figure = heat_maps(cells)
    figure.savefig(options.out / f"{options.name.replace('-', '_')}.png", dpi=80)
    print(f"\n{path}")


def described(run: Path) -> dict[str, Any]:
    """Model, prompts, machine and versions as the run's own record has them."""
    found: dict[str, Any] = {"tables": f"python benchmarks/cake/needle_tables.py {_shown(run)}"}
    for name in ("record-test.json", "record.json"):
        if (run / name).is_file():
            record = json.loads((run / name).read_text())
            keys = ("stage", "run_id", "model", "dataset", "protocol", "versions", "git", "config_sha256")
            test = {"command": f"septet test -c configs/cake/{record['name']}.yaml"}
            return test | found | {key: record[key] for key in keys if key in record}
    return found


def _shown(run: Path) -> str:
    """The path from the repository root, if it lies below it."""
    path, root = run.resolve(), Path.cwd().resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def summarise(rows: Sequence[Cell]) -> list[Cell]:
    """Means over the prompts of each (policy, length)."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for row in rows:
        groups.setdefault((row["policy"], row["length"]), []).append(row)
    policies = list(dict.fromkeys(policy for policy, _ in groups))
    lengths = sorted({length for _, length in groups})
    return [
        _summary(policy, length, groups[policy, length])
        for policy in policies
        for length in lengths
        if (policy, length) in groups
    ]


def _summary(policy: str, length: int, rows: Sequence[Cell]) -> Cell:
    grid = NeedleGrid()
    known = [row for row in rows if row["depth"] is not None]
    if known:
        values = [[float(row[key]) for row in known] for key in ("depth", "length", "accuracy")]
        grid.update(*(torch.tensor(v, dtype=torch.float64) for v in values))
    by_depth = grid.compute()[0][:, 0].tolist() if known else []
    return {
        "policy": policy,
        "length": length,
        "prompts": len(rows),
        **{key: _rounded(_mean(rows, key)) for key in ("accuracy", "kl", "recall", "tokens_per_s")},
        **{key: statistics.median_low(row[key] for row in rows) for key in ("kv_bytes", "peak_bytes")},
        "score_and_trim_s": _rounded(statistics.median(row["prefill_s"] for row in rows)),
        "accuracy_by_depth": [None if math.isnan(value) else round(value, 3) for value in by_depth],
    }


def _mean(rows: Sequence[Cell], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _split(label: str) -> tuple[str, int]:
    name, _, capacity = label.partition("-")
    return name, int(capacity or 0)


def axes_of(cells: Sequence[Cell]) -> tuple[list[str], list[int], list[int]]:
    """Policies without the full cache, capacities and lengths."""
    policies = list(dict.fromkeys(_split(c["policy"])[0] for c in cells if c["policy"] != "full"))
    capacities = sorted({_split(c["policy"])[1] for c in cells if c["policy"] != "full"})
    return policies, capacities, sorted({c["length"] for c in cells})


def tables(cells: Sequence[Cell]) -> list[str]:
    """One Markdown table per length: accuracy and KL by policy and capacity."""
    policies, capacities, lengths = axes_of(cells)
    known = {(c["policy"], c["length"]): c for c in cells}
    lines: list[str] = []
    for length in lengths:
        full = known["full", length]
        lines += [
            "",
            f"{length} tokens ({full['prompts']} prompts; full cache {full['accuracy']:.2f}, "
            f"{full['kv_bytes'] / 1e6:.1f} MB)",
            "",
            "| policy | " + " | ".join(f"C = {c}" for c in capacities) + " |",
            "|---|" + "---|" * len(capacities),
        ]
        for policy in policies:
            found = [known.get((f"{policy}-{c}", length)) for c in capacities]
            shown = [f"{c['accuracy']:.2f} ({c['kl']:.2f})" if c else "not run" for c in found]
            lines.append(f"| {policy} | " + " | ".join(shown) + " |")
    return lines


def heat_maps(cells: Sequence[Cell]) -> Any:
    """Accuracy by depth and length, one panel per policy and drawn capacity."""
    import numpy as np
    from matplotlib.figure import Figure

    policies, capacities, lengths = axes_of(cells)
    drawn = [c for c in DRAWN if c in capacities] or capacities
    known = {(c["policy"], c["length"]): c["accuracy_by_depth"] for c in cells}
    bins = max(len(depths) for depths in known.values())
    figure = Figure(figsize=(2.6 * len(policies), 2.3 * len(drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), len(policies), squeeze=False)
    for (i, j), panel in np.ndenumerate(axes):
        label = f"{policies[j]}-{drawn[i]}"
        columns = [[v if v is not None else np.nan for v in known.get((label, n), [None] * bins)] for n in lengths]
        image = panel.imshow(np.array(columns).T, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        panel.set_title(f"{policies[j]}, C = {drawn[i]}", fontsize=9)
        panel.set_xticks(range(len(lengths)), [str(n) for n in lengths])
        panel.set_yticks(range(bins), [f"{(k + 0.5) / bins:.1f}" for k in range(bins)])
        for (x, y), value in np.ndenumerate(np.array(columns)):
            if not np.isnan(value):
                panel.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7)
    figure.supxlabel("context, tokens")
    figure.supylabel("depth of the needle")
    figure.colorbar(image, ax=axes, label="accuracy")
    return figure


if __name__ == "__main__":
    main()
