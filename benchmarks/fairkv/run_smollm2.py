"""SmolLM2 on two gloo processes: profile with AdaKV on real prompts, solve, compare answers and bytes with one process.

Usage: python benchmarks/fairkv/run_smollm2.py benchmarks/fairkv/2026-11-26-smollm2.json
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from septet.datamodules.long_context import LongContextText
from septet.kernels.policies import build_policy
from septet.launch.bench import machine
from septet.launch.record import versions
from septet.lightning_modules.cake import LongContextModule
from septet.lightning_modules.strategies import profile_heads

POLICY = {"name": "adakv", "capacity": 128}
DATA = {"task": "needle", "tokenizer": "smollm2", "chat_template": True, "context_length": 512, "batch_size": 4}


def profile(path: Path) -> torch.Tensor:
    """Mean kept tokens of 8 needle prompts (seed 1; the evaluation uses seed 0)."""
    data = LongContextText(**DATA, num_samples=8, seed=1)
    data.setup("test")
    module = LongContextModule.from_hf("smollm2")
    prompts = [{"input_ids": b["input_ids"], "attention_mask": b["attention_mask"]} for b in data.test_dataloader()]
    tokens = profile_heads(module, prompts, build_policy(POLICY))
    np.savez(path, tokens=tokens.numpy())
    return tokens


def predict(name: str, *options: str) -> list[dict[str, str]]:
    """Rows of ``septet predict`` in a run of its own."""
    config = "configs/fairkv/smollm2_2proc.yaml"
    words = [sys.executable, "-m", "septet", "predict", "-c", config, "--name", name, *options]
    words += ["--model.init_args.capacities=[128]", "--data.init_args.num_samples=8"]
    subprocess.run(words, check=True)
    run = max(Path(os.environ["SEPTET_RUNS"]).glob(f"*/{name}/*"), key=lambda p: p.stat().st_mtime)
    with (run / "predictions.csv").open() as handle:
        return list(csv.DictReader(handle))


def main(target: str) -> None:
    """Run all three parts and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEPTET_RUNS"] = folder
        tokens = profile(Path(folder) / "profile.npz")
        strategy = "--trainer.strategy.init_args."
        two = predict(
            "two", f"{strategy}profile={folder}/profile.npz", f"{strategy}copies=1", f"{strategy}weight_cost=0.0"
        )
        plan = json.loads(next(Path(folder).glob("fairkv/two/*/media/head_plan.json")).read_text())
        one = predict("one", "--trainer.strategy=auto", "--trainer.devices=1")
    same = sum(a["answer"] == b["answer"] for a, b in zip(one, two, strict=True))
    record = {
        "benchmark": "fairkv smollm2", "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": f"python benchmarks/fairkv/run_smollm2.py {target}",
        "machine": machine("cpu"), "versions": versions(),
        "policy": POLICY, "prompts": 8, "profile_prompts": 8, "answers": len(one), "same_answers": same,
        "profile_tokens_mean": tokens.mean(dim=0).tolist(), "planned_utilisation": plan["meta"]["utilisation"],
        "copies_per_layer": [sum(len(h) - 1 for h in layer) for layer in plan["layers"]],
    }  # fmt: skip
    Path(target).write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
