"""Head-parallel decoding on GPUs over NCCL against one GPU: logits, kept bytes and decode time of each plan.

Usage: torchrun --nproc-per-node 2 benchmarks/fairkv/run_nccl.py OUT.json
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from septet.kernels.placement import HeadPlan, contiguous_plan, solve
from septet.kernels.policies import build_policy
from septet.launch.bench import machine
from septet.launch.record import versions
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies import parallelise

CONFIG = DecoderConfig(
    vocab_size=512, hidden_size=1024, intermediate_size=2816, n_layers=4, n_heads=16, n_kv_heads=8, head_dim=64
)
BATCH, LENGTH, STEPS = 4, 512, 12


def build(dtype: torch.dtype) -> CausalLM:
    """The same random weights on every rank."""
    torch.manual_seed(0)
    return CausalLM(CONFIG).to("cuda", dtype).eval()


@torch.no_grad()
def decode(model: CausalLM, policy: dict[str, Any]) -> tuple[torch.Tensor, int, float]:
    """Logits ``(B, 1 + STEPS, V)``, live KV bytes here, median milliseconds of a step."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, 512, (BATCH, LENGTH), generator=generator).cuda()
    cache = model.new_cache(build_policy(policy), BATCH)
    logits, times = [model(prompt, cache=cache, last_only=True)], []
    for _ in range(STEPS):
        token = torch.randint(0, 512, (BATCH, 1), generator=generator).cuda()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        logits.append(model(token, cache=cache))
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return torch.cat(logits, 1).float(), cache.memory_bytes(), statistics.median(times[2:])


def plans(world: int) -> dict[str, HeadPlan]:
    """Contiguous blocks, and a skewed profile with copies."""
    loads = torch.tensor([[9.0, 1, 1, 1, 1, 1, 1, 1], [1, 5, 5, 1, 1, 1, 1, 1]] * 2, dtype=torch.float64)
    found = {"copies": solve(loads, world, batch_size=BATCH, copies=2)}
    if CONFIG.n_kv_heads % world == 0:
        found["contiguous"] = contiguous_plan(CONFIG.n_layers, CONFIG.n_kv_heads, world, BATCH)
    return found


def main(target: str) -> None:
    """Compare on every rank; rank zero writes the record."""
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.cuda.set_device(rank)
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    for policy in ({"name": "full"}, {"name": "adakv", "capacity": 128}, {"name": "cake", "capacity": 128}):
        whole, size, alone = decode(build(torch.float32), policy)
        for label, plan in plans(world).items():
            logits, mine, step = decode(parallelise(build(torch.float32), plan), policy)
            error = ((logits - whole).abs() / whole.abs().clamp(min=1)).max()
            total = torch.tensor([float(mine)], device="cuda")
            dist.all_reduce(total)
            dist.all_reduce(error, op=dist.ReduceOp.MAX)
            rows.append(
                {
                    "policy": policy["name"], "plan": label, "world": world, "max_relative_error": float(error),
                    "kv_bytes": int(total), "kv_bytes_one_gpu": size, "copies": plan.copies,
                    "step_ms": step, "step_ms_one_gpu": alone,
                }
            )  # fmt: skip
    if rank == 0:
        command = f"torchrun --nproc-per-node {world} benchmarks/fairkv/run_nccl.py {target}"
        record = {"benchmark": "fairkv nccl", "command": command, "machine": machine("cuda"), "versions": versions()}
        Path(target).write_text(json.dumps({**record, "rows": rows}, indent=2) + "\n")
        print(json.dumps(rows, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    main(sys.argv[1])
