"""Train the byte-level model of ``byte_retrieval.yaml`` and test it on RULER niah_multikey_3 (``byte_ruler.yaml``).

Usage: python benchmarks/cake/byte_model.py OUT_FOLDER --ruler niah_multikey_3.jsonl [--minutes 7] [--device cuda]
       python benchmarks/cake/byte_model.py OUT_FOLDER --ruler ... --start FIRST/byte-model.ckpt    # go on, lr 3e-4

The same as ``septet fit`` and ``septet test --ckpt_path`` with those two files, without the command line's packages, so
that it also runs where only lightning is installed. Writes ``byte-model.json`` (record) and ``byte-model.ckpt``.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml

from septet.launch.bench import instantiate, machine
from septet.launch.record import versions

CONFIGS = Path(__file__).parents[2] / "src/septet/configs/cake"


class Trace(pl.Callback):
    """One line per tenth epoch: seconds, stage, accuracy."""

    def __init__(self) -> None:
        self.start, self.lines = time.perf_counter(), list[dict[str, float]]()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and keep what training says of itself."""
        found = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items() if k.startswith(("train", "val"))}
        line = {"s": round(time.perf_counter() - self.start, 1), "step": trainer.global_step, **found}
        if trainer.current_epoch % 10 == 0 or trainer.should_stop:
            self.lines.append(line)
            print(json.dumps(line), flush=True)


def load(name: str, device: str) -> dict[str, Any]:
    """A shipped configuration on a device."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["trainer"]["accelerator"] = "gpu" if device == "cuda" else "cpu"
    return config


def train(out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train within a limit of minutes; the last weights are kept."""
    config = load("byte_retrieval", options.device)
    config["data"]["init_args"]["workers"] = options.workers
    pl.seed_everything(config["seed_everything"])
    trace = Trace()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    limit = {"minutes": options.minutes}
    module, data = instantiate(config["model"]), instantiate(config["data"])
    if options.start:  # a second call: whole lengths from the first step on, a third of the rate
        module.configure_model()
        module.load_state_dict(torch.load(options.start, weights_only=True, map_location="cpu")["state_dict"])
        module.learning_rate, data.stage = 3e-4, len(data.lengths) - 1
    trainer = pl.Trainer(**config["trainer"], **quiet, callbacks=[trace], max_time=limit, default_root_dir=out)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(out / "byte-model.ckpt", weights_only=True)
    wall = time.perf_counter() - trace.start
    return {"wall_s": round(wall, 1), "steps": trainer.global_step, "start": bool(options.start), "trace": trace.lines}


def test(out: Path, weights: Path, options: argparse.Namespace) -> dict[str, float]:
    """Every (policy, capacity) cell on RULER's prompts."""
    config = load("byte_ruler", options.device)
    config["data"]["init_args"] |= {"root": str(options.ruler), "num_samples": options.samples}
    trainer = pl.Trainer(**config["trainer"], logger=False, enable_progress_bar=False, default_root_dir=out)
    module, data = instantiate(config["model"]), instantiate(config["data"])
    figures = trainer.test(module, datamodule=data, ckpt_path=str(weights), verbose=False)[0]
    return {name.removeprefix("test/"): round(value, 4) for name, value in figures.items()}


def main() -> None:
    """Train unless weights are given, test, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ruler", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="test these and do not train")
    parser.add_argument("--start", type=Path, help="weights of an earlier call to go on from")
    parser.add_argument("--minutes", type=int, default=7)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    trained = None if options.weights else train(options.out, options)
    figures = test(options.out, options.weights or options.out / "byte-model.ckpt", options)
    print({k: v for k, v in figures.items() if k.endswith("accuracy")})
    record = {
        "benchmark": "cake byte-level model on RULER", "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": "python benchmarks/cake/byte_model.py OUT --ruler niah_multikey_3.jsonl", "prompts": options.samples,
        "machine": machine(options.device), "versions": versions(), "training": trained, "test": figures,
    }  # fmt: skip
    (options.out / "byte-model.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
