"""SmolLM2 on two gloo processes: profile with AdaKV on real prompts, solve, compare answers and bytes with one process.

The package's GGUF file is written once as sharded safetensors, so that each process reads only its slices.

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
from typing import Any

import numpy as np
import torch

from septet.datamodules.long_context import LongContextText
from septet.kernels.placement import HeadPlan
from septet.kernels.policies import build_policy
from septet.launch.bench import machine
from septet.launch.record import versions
from septet.lightning_modules.cake import LongContextModule
from septet.lightning_modules.cake.sharded import left_padded, prompt_of
from septet.lightning_modules.strategies import export_safetensors, profile_heads

POLICY = {"name": "adakv", "capacity": 128}
DATA = {"task": "needle", "tokenizer": "smollm2", "chat_template": True, "context_length": 512, "batch_size": 4}
PROMPTS, PROFILE_PROMPTS, NEW_TOKENS = 12, 8, 24


def batches(count: int, seed: int) -> list[dict[str, Any]]:
    """Needle prompts in batches of 4."""
    data = LongContextText(**DATA, num_samples=count, seed=seed)
    data.setup("test")
    return list(data.test_dataloader())


def predict(name: str, *options: str) -> tuple[list[dict[str, str]], Path]:
    """Rows of ``septet predict`` in a run of its own, and the run."""
    config = "configs/fairkv/smollm2_2proc.yaml"
    words = [sys.executable, "-m", "septet", "predict", "-c", config, "--name", name, *options]
    words += ["--model.init_args.capacities=[128]", f"--data.init_args.num_samples={PROMPTS}"]
    words += [f"--data.init_args.max_new_tokens={NEW_TOKENS}"]
    subprocess.run(words, check=True)
    run = max(Path(os.environ["SEPTET_RUNS"]).glob(f"*/{name}/*"), key=lambda p: p.stat().st_mtime)
    with (run / "predictions.csv").open() as handle:
        return list(csv.DictReader(handle)), run


@torch.no_grad()
def expected_bytes(module: LongContextModule, plan: HeadPlan) -> list[float]:
    """KV bytes per process and batch: what one process keeps of each row and head, placed as the plan says."""
    model, totals = module.net, [0.0] * plan.n_devices
    evaluated = batches(PROMPTS, seed=0)
    for batch in evaluated:
        ids, mask = left_padded([prompt_of(batch, row) for row in range(plan.batch_size)])
        cache = model.new_cache(build_policy(POLICY), plan.batch_size)
        model(ids, cache=cache, attention_mask=mask, last_only=True)
        for index, layer in enumerate(plan.layers):
            lengths = cache.lengths(index)
            for number, head in enumerate(layer):
                for device, start, stop in head:
                    totals[device] += float(lengths[start:stop, number].sum()) * 2 * 4 * model.config.size
    return [total / len(evaluated) for total in totals]


def main(target: str) -> None:
    """Run all parts and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEPTET_RUNS"] = folder
        weights = export_safetensors("smollm2", Path(folder) / "weights", shard_bytes=100 * 2**20)
        module = LongContextModule.from_hf(str(weights))
        prompts = [{k: b[k] for k in ("input_ids", "attention_mask")} for b in batches(PROFILE_PROMPTS, seed=1)]
        tokens = profile_heads(module, prompts, build_policy(POLICY))
        np.savez(f"{folder}/profile.npz", tokens=tokens.numpy())
        key = "--trainer.strategy.init_args."
        options = [f"{key}profile={folder}/profile.npz", f"{key}copies=1", f"{key}weight_cost=0.0"]
        two, run = predict("two", f"--model.init_args.pretrained={weights}", *options)
        plan = HeadPlan.from_json(run / "media" / "head_plan.json")
        placement = json.loads((run / "media" / "placement.json").read_text())
        one, _ = predict("one", "--trainer.strategy=auto", "--trainer.devices=1")
        expected = expected_bytes(module, plan)
    met = placement["policies"]["adakv-128"]
    same = sum(a["answer"] == b["answer"] for a, b in zip(one, two, strict=True))
    record = {
        "benchmark": "fairkv smollm2", "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": f"python benchmarks/fairkv/run_smollm2.py {target}",
        "machine": machine("cpu"), "load_average": os.getloadavg(), "versions": versions(),
        "policy": POLICY, "prompts": PROMPTS, "profile_prompts": PROFILE_PROMPTS, "batch_size": plan.batch_size,
        "answers": len(one), "same_answers": same, "answers_two_processes": [row["answer"] for row in two],
        "profile_tokens_mean": tokens.mean(dim=0).tolist(), "copies_per_layer": plan.copies,
        "utilisation_planned": placement["utilisation_planned"], "utilisation_met": met["utilisation_met"],
        "drifted": met["drifted"],
        "kv_bytes_per_process": {
            "measured": met["kv_bytes_per_device"], "one_process_placed_by_the_plan": expected,
            "planned_from_the_profile": met["kv_bytes_planned"],
            "measured_equals_placed": met["kv_bytes_per_device"] == expected,
        },
        "weights_per_process": placement["loading"],
    }  # fmt: skip
    Path(target).write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
