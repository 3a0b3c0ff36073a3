"""``sim_tiny`` for more steps than its five CPU minutes allow: does the distance to the estimator's floor close?

Usage: python benchmarks/drivingdojo/run_longer.py RECORD.json [--steps 900 9000] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml

from septet.launch.bench import instantiate, machine
from septet.launch.record import versions

CONFIG = Path(__file__).parents[2] / "src/septet/configs/drivingdojo/sim_tiny.yaml"


def run(steps: int, device: str, out: Path) -> dict[str, Any]:
    """Train for so many steps and test the last weights."""
    config = yaml.safe_load(CONFIG.read_text())
    pl.seed_everything(config["seed_everything"])
    config["data"]["init_args"]["cache_dir"] = str(out / "cache")
    module, data = instantiate(config["model"]), instantiate(config["data"])
    settings = {
        **config["trainer"],
        "max_steps": steps,
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "devices": 1,
    }
    trainer = pl.Trainer(**settings, logger=False, enable_progress_bar=False, default_root_dir=out, callbacks=[])
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    wall = time.perf_counter() - start
    figures = trainer.test(module, datamodule=data, verbose=False)[0]
    return {"steps": steps, "fit_wall_s": round(wall, 1), "metrics": {k: round(v, 5) for k, v in figures.items()}}


def main() -> None:
    """One run per number of steps; the record is rewritten after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[900, 9000])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in options.steps:
            rows.append(run(steps, options.device, Path(folder)))
            m = rows[-1]["metrics"]
            print(steps, rows[-1]["fit_wall_s"], {k: m[k] for k in m if "aif" in k or "floor" in k}, flush=True)
            content = {
                "what": "sim_tiny by training steps, strict AIF on held-out simulator clips", "rows": rows,
                "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(options.device), "versions": versions(),
                "command": "python benchmarks/drivingdojo/run_longer.py RECORD.json --device " + options.device,
            }  # fmt: skip
            options.record.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
