"""Train the small recall model with several seeds, test every cell, write the record and print the README's tables.

Usage: python benchmarks/cake/tiny_recall.py [--seeds 0 1 2] [--out FILE]     # 2 to 5 minutes a seed on two CPU cores
       python benchmarks/cake/tiny_recall.py --record FILE                    # only the tables of a record

Each seed is ``septet fit -c configs/cake/tiny_recall.yaml`` (seed of the run, of the weights and of the data), then
``septet test --run`` on it, then ``tiny_recall_agnostic.yaml`` (the asked keys are not listed) on the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from septet.launch.bench import machine
from septet.launch.record import versions

LISTED, AGNOSTIC = (f"configs/cake/tiny_recall{name}.yaml" for name in ("", "_agnostic"))
ANSWERS = 400
"""100 prompts with four questions each."""


def main() -> None:
    """Run the seeds (unless a record is given) and print the tables."""
    parser = argparse.ArgumentParser(description="The trained recall model over several seeds.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="default: benchmarks/cake/<date>-tiny-recall.json")
    parser.add_argument("--record", type=Path, help="print the tables of this record and stop")
    options = parser.parse_args()
    if options.record:
        print("\n".join(tables(json.loads(options.record.read_text()))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEPTET_RUNS"] = folder
        seeds = {str(seed): one_seed(seed) for seed in options.seeds}
    stamp = datetime.now(UTC)
    record = {
        "benchmark": "cake tiny_recall",
        "date": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        "command": "python benchmarks/cake/tiny_recall.py --seeds " + " ".join(seeds),
        "machine": machine("cpu"),
        "load_average": os.getloadavg(),
        "versions": versions(),
        "answers_per_cell": ANSWERS,
        "seeds": {seed: result["listed"] for seed, result in seeds.items()},
        "question_agnostic": {
            "config": AGNOSTIC,
            "note": "the same models; the asked keys are not listed before the compression",
            "accuracy_by_seed": {seed: result["agnostic"] for seed, result in seeds.items()},
        },
    }
    path = options.out or Path("benchmarks/cake") / f"{stamp:%Y-%m-%d}-tiny-recall.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(tables(record)))
    print(f"\n{path}")


def one_seed(seed: int) -> dict[str, Any]:
    """Fit and both tests of one seed."""
    seeded = [f"--seed_everything={seed}", f"--data.init_args.seed={seed}", f"--model.init_args.seed={seed}"]
    name = f"recall_s{seed}"
    fitted = septet("fit", name, "-c", LISTED, *seeded)
    run = Path(fitted["path"])
    tested = septet("test", name, "--run", str(run))
    weights = run / "checkpoints" / "best.ckpt"
    hard = septet("test", f"{name}_agnostic", "-c", AGNOSTIC, *seeded, "--ckpt_path", str(weights))
    listed = {
        "fit_s": round(fitted["cost"]["wall_s"], 1),
        "steps": fitted["step"],
        "accuracy": values(tested, "accuracy"),
        "kl": values(tested, "kl"),
    }
    return {"listed": listed, "agnostic": values(hard, "accuracy")}


def septet(stage: str, name: str, *words: str) -> dict[str, Any]:
    """Run a stage and return its record and run folder."""
    named = [] if "--run" in words else ["--name", name]
    subprocess.run([sys.executable, "-m", "septet", stage, *words, *named], check=True, stdout=subprocess.DEVNULL)
    file = "record-test.json" if "--run" in words else "record.json"
    path = max(Path(os.environ["SEPTET_RUNS"]).glob(f"*/{name}/*/{file}"), key=lambda p: p.stat().st_mtime)
    record: dict[str, Any] = json.loads(path.read_text())
    return {**record, "path": str(path.parent)}


def values(record: dict[str, Any], metric: str) -> dict[str, float]:
    """``test/<label>/<metric>`` by label."""
    found: dict[str, float] = {}
    for key, value in record["metrics"].items():
        _, _, rest = key.partition("test/")
        label, _, name = rest.partition("/")
        if name == metric:
            found[label] = round(float(value), 4)
    return found


def tables(record: dict[str, Any]) -> list[str]:
    """Both Markdown tables: mean over the seeds (lowest, highest)."""
    listed = {seed: result["accuracy"] for seed, result in record["seeds"].items()}
    lines = []
    for title, by_seed in (("Keys listed", listed), ("Agnostic", record["question_agnostic"]["accuracy_by_seed"])):
        labels = list(next(iter(by_seed.values())))
        policies = list(dict.fromkeys(label.split("-")[0] for label in labels))
        sizes = sorted({int(label.split("-")[1]) for label in labels if "-" in label})
        lines += ["", title, "", "| C | " + " | ".join(policies) + " |", "|---|" + "---|" * len(policies)]
        for size in sizes:
            cells = [_cell([row.get(f"{p}-{size}", row.get(p)) for row in by_seed.values()]) for p in policies]
            lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return lines


def _cell(found: list[float]) -> str:
    return f"{sum(found) / len(found):.3f} ({min(found):.2f}, {max(found):.2f})"


if __name__ == "__main__":
    main()
