"""Cases of ``configs/mscmnet`` by seeds, in one process each: fit, then test of the checkpoint chosen on validation.

The same as ``septet fit -c configs/mscmnet/CASE.yaml --seed_everything SEED --data.init_args.seed SEED`` and then
``septet test --run``, but without the command line's packages, so that it also runs where only lightning is installed.

Usage: python benchmarks/mscmnet/run_ablations.py OUT_FOLDER CASE:SEED [CASE:SEED ...] [--device cuda] [--workers N]
       python benchmarks/mscmnet/run_ablations.py OUT_FOLDER --summary RECORD.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml

from septet.launch.bench import instantiate, machine
from septet.launch.record import versions

CONFIGS = Path(__file__).parents[2] / "src/septet/configs/mscmnet"
METRICS = ("rank1", "mAP", "mINP")


def run(case: str, seed: int, out: Path, device: str, workers: int) -> dict[str, Any]:
    """Train one case and test the weights that were best on the validation identities."""
    config = yaml.safe_load((CONFIGS / f"{case}.yaml").read_text())
    config["data"]["init_args"] |= {"workers": workers, "seed": seed}
    pl.seed_everything(seed)
    module, data = instantiate(config["model"]), instantiate(config["data"])
    best = pl.callbacks.ModelCheckpoint(out / f"{case}-{seed}", monitor=module.monitor, mode=module.mode)
    settings = {**config["trainer"], "accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1}
    trainer = pl.Trainer(**settings, logger=False, callbacks=[best], enable_progress_bar=False, default_root_dir=out)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    wall = time.perf_counter() - start
    figures = trainer.test(module, datamodule=data, ckpt_path=best.best_model_path, verbose=False)[0]
    return {
        "case": case, "seed": seed, "fit_wall_s": round(wall, 1), "steps": trainer.global_step,
        "metrics": {k: round(v, 4) for k, v in figures.items()},
    }  # fmt: skip


def summary(out: Path, record: Path, device: str) -> None:
    """One record of all finished cases, and the README's table on standard output."""
    rows = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    means = {}
    for case in cases:
        found = [row["metrics"] for row in rows if row["case"] == case]
        means[case] = {m: [f[f"test/{m}"] for f in found] for m in METRICS}
        cells = [
            f"{100 * statistics.fmean(v):.1f} ({100 * min(v):.1f}, {100 * max(v):.1f})" for v in means[case].values()
        ]
        print(f"| `{case}` | {len(found)} | {' | '.join(cells)} |")
    content = {
        "what": "cases of configs/mscmnet on generated data, checkpoint by validation identities, 32 unseen identities",
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "command": "python benchmarks/mscmnet/run_ablations.py",
        "machine": machine(device), "versions": versions(), "rows": rows, "by_case": means,
    }  # fmt: skip
    record.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Run what is asked for, or sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE:SEED")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--summary", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for word in options.cases:
        case, _, seed = word.partition(":")
        row = run(case, int(seed), options.out, options.device, options.workers)
        (options.out / f"{case}-{seed}.json").write_text(json.dumps(row) + "\n")
        print(row["case"], row["seed"], row["fit_wall_s"], row["metrics"].get("test/rank1"), flush=True)
    if options.summary:
        summary(options.out, options.summary, options.device)


if __name__ == "__main__":
    main()
