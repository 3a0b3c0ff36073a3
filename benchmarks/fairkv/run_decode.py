"""Decode steps of a random 1B Llama cut over GPUs: standard TP against FairKV's plan against plans with copies.

Caches are filled with random keys and values of a published profile's lengths; the prompt is not read, for its time is
no part of a decode step. Two ways of stepping are timed: ``step`` replays a CUDA graph (projections, append, ragged
attention, MLP and the all-reduces over NCCL; appended tokens overwrite the newest slot), ``eager`` calls
``model(ids, cache=cache)`` as the strategy does. ``attention`` is the append and the attention of each layer alone,
the slowest process of each layer summed over layers: the measured counterpart of the sum of makespans.

Usage: torchrun --nproc-per-node 2 benchmarks/fairkv/run_decode.py OUT.json [--heads FOLDER] [--tiny]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from decode_step import StaticStep, build, captured, fill, median_ms
from torch import Tensor

from septet.kernels.placement import (
    DeviceModel,
    HeadPlan,
    ModelShape,
    contiguous_plan,
    duo_tokens,
    group_mean,
    headkv_tokens,
    read_profile,
    simulate,
    solve,
)
from septet.launch.bench import machine
from septet.launch.record import versions
from septet.lightning_modules.cake.model import DecoderConfig
from septet.lightning_modules.strategies.sweeps import generated_profile

LLAMA_1B = DecoderConfig(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, n_layers=16, n_heads=32, n_kv_heads=8,
    rope_theta=5e5, tie_embeddings=True,
)  # fmt: skip
TINY = DecoderConfig(
    vocab_size=96, hidden_size=64, intermediate_size=96, n_layers=4, n_heads=16, n_kv_heads=8, tie_embeddings=True
)
CELLS = (("headkv", 8192, 128), ("headkv", 4096, 32), ("headkv", 16384, 96), ("duo", 8192, 96))
"""Profile, mean kept tokens of a head (for "duo": half the length), batch."""


def head_tokens(profile: str, budget: int, layers: int, folder: Path) -> tuple[str, Tensor]:
    """Kept tokens ``(layers, 8)`` of every (32 / layers)-th layer of a published profile, or of a generated one."""
    scores, gates = folder / "headkv_retrieval_reasoning_mean_scores.npz", folder / "duo_Meta-Llama-3.1-8B-Instruct.tsv"
    if profile == "headkv" and scores.is_file():
        tokens = group_mean(headkv_tokens(read_profile(scores, "Meta_Llama_3_8B_Instruct"), capacity=budget), 8)
        name = "HeadKV Llama-3-8B"
    elif profile == "duo" and gates.is_file():
        tokens, name = duo_tokens(read_profile(gates), length=2 * budget), "DuoAttention Llama-3.1-8B"
    else:
        tokens, name = generated_profile(budget), "generated"
    return name, tokens[:: len(tokens) // layers][:layers].round()


def plans(tokens: Tensor, world: int, batch: int, cost: float) -> dict[str, HeadPlan]:
    """Contiguous blocks, assignment, and copies."""
    layers, heads = tokens.shape
    found = {"standard TP": contiguous_plan(layers, heads, world, batch)} if heads % world == 0 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for copies in (0, 1, 2, 4):
            label = f"+{copies} copies" if copies else "assignment only"
            found[label] = solve(batch * tokens, world, batch_size=batch, copies=copies, weight_cost=cost)
    return found


def slowest(value: float, device: torch.device) -> float:
    """Maximum over the processes."""
    number = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return float(number)


def everywhere(value: float, device: torch.device) -> list[float]:
    """This number of every process."""
    numbers = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=device)
    numbers[dist.get_rank()] = value
    dist.all_reduce(numbers)
    return [float(n) for n in numbers]


@torch.no_grad()
def measure(
    config: DecoderConfig,
    plan: HeadPlan,
    tokens: Tensor,
    device: torch.device,
    repeats: int,
    graphs: bool,
    backend: str,
) -> tuple[dict[str, Any], Tensor]:
    """Times and bytes of one plan, and the logits of the first step (the same whole model and caches in all plans)."""
    cuda, batch = device.type == "cuda", plan.batch_size
    dtype = torch.bfloat16 if cuda else torch.float32
    model = build(config, plan, device, dtype)
    cache = fill(model, tokens, batch)
    kv_bytes = everywhere(cache.memory_bytes(), device)
    weights = everywhere(sum(p.numel() * p.element_size() for p in model.parameters()), device)
    ids = torch.arange(batch, device=device)[:, None] % config.vocab_size
    step = StaticStep(model, cache, ids, backend)
    logits = step().float().clone()
    layers = []
    for index in range(config.n_layers):
        part = captured(step.attention_only(index), graphs)[0]
        layers.append(median_ms(part, repeats, cuda, together=False))
    worst = [slowest(ms, device) for ms in layers]
    replay, _ = captured(step, graphs)
    replay()
    times = median_ms(replay, repeats, cuda)
    eager = median_ms(lambda: model(ids, cache=cache, last_only=True), max(5, repeats // 4), cuda)
    allocated = torch.cuda.max_memory_allocated() if cuda else 0
    result = {
        "step_ms": slowest(times, device), "eager_step_ms": slowest(eager, device),
        "attention_ms": sum(worst), "attention_ms_by_layer": worst,
        "attention_ms_by_device": everywhere(sum(layers), device),
        "kv_bytes_by_device": kv_bytes, "weight_bytes_by_device": weights,
        "peak_allocated_by_device": everywhere(allocated, device),
    }  # fmt: skip
    return result, logits


def bandwidth(device: torch.device) -> float:
    """Bytes per second of a large device copy, read and written."""
    count = 2**28 if device.type == "cuda" else 2**22
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), 10, device.type == "cuda")
    return 2 * source.numel() * 4 / (ms / 1e3)


def all_reduce_seconds(batch: int, config: DecoderConfig, device: torch.device, graphs: bool) -> float:
    """One all-reduce of a step's hidden state."""
    cuda = device.type == "cuda"
    x = torch.zeros(batch, 1, config.hidden_size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)

    def many() -> None:
        for _ in range(20):
            dist.all_reduce(x)

    return slowest(median_ms(captured(many, graphs)[0], 10, cuda), device) / 20 / 1e3


def cell(
    name: str,
    tokens: Tensor,
    budget: int,
    batch: int,
    config: DecoderConfig,
    device: torch.device,
    repeats: int,
    graphs: bool,
    backend: str,
) -> list[dict[str, Any]]:
    """Every plan on one profile, budget and batch; measured beside simulated."""
    world, cuda = dist.get_world_size(), device.type == "cuda"
    shape = ModelShape(
        config.n_layers, config.n_heads, config.n_kv_heads, config.size, config.hidden_size, config.intermediate_size,
        config.vocab_size, 2 if cuda else 4,
    )  # fmt: skip
    hop = all_reduce_seconds(batch, config, device, graphs) / max(1, 2 * (world - 1))
    card = DeviceModel(bandwidth(device), link_latency=hop)
    cost = shape.head_weight_bytes / (2 * shape.head_dim * shape.element_bytes)
    token_bytes = 2 * shape.head_dim * shape.element_bytes
    rows: list[dict[str, Any]] = []
    reference = None
    for label, plan in plans(tokens, world, batch, cost).items():
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found, logits = measure(config, plan, tokens, device, repeats, graphs, backend)
        reference = logits if reference is None else reference
        predicted = simulate(plan, tokens, shape, card)
        planned = plan.loads(batch * tokens).sum(dim=0) * token_bytes
        gap = [abs(a - float(b)) / float(b) for a, b in zip(found["kv_bytes_by_device"], planned, strict=True) if b]
        rows.append(
            {
                "profile": name, "budget": budget, "batch": batch, "world": world, "plan": label,
                "copies_per_layer": sum(plan.copies) / plan.n_layers,
                "utilisation": plan.utilisation(batch * tokens, cost), **found,
                "planned_kv_bytes_by_device": planned.tolist(), "largest_gap_of_kv_bytes": max(gap),
                "tokens_per_second": batch / found["step_ms"] * 1e3,
                "simulated_attention_ms": predicted.attention_seconds * 1e3,
                "simulated_step_ms": predicted.step_seconds * 1e3,
                "largest_logit_difference": float((logits - reference).abs().max()),
                "relative_logit_difference": float((logits - reference).norm() / reference.norm()),
                "same_next_token": float((logits.argmax(-1) == reference.argmax(-1)).float().mean()),
            }
        )  # fmt: skip
        _against(rows[0], rows[-1])
        if dist.get_rank() == 0:
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    return (
        f"{row['profile']} {row['budget']} x {row['batch']} on {row['world']}, {row['plan']}: "
        f"U {row['utilisation']:.3f}, attention {row['attention_ms']:.2f} ms ({row['attention_ratio']:.2f}x, simulated "
        f"{row['simulated_attention_ratio']:.2f}x), step {row['step_ms']:.2f} ms ({row['step_ratio']:.2f}x, simulated "
        f"{row['simulated_step_ratio']:.2f}x), eager {row['eager_step_ms']:.2f} ms, "
        f"{row['tokens_per_second']:.0f} tokens/s, same next token {row['same_next_token']:.3f}"
    )


def _against(base: dict[str, Any], row: dict[str, Any]) -> None:
    for key in ("attention", "step", "eager_step", "simulated_attention", "simulated_step"):
        row[f"{key}_ratio"] = base[f"{key}_ms"] / row[f"{key}_ms"]


def fits(tokens: Tensor, batch: int, config: DecoderConfig, device: torch.device) -> bool:
    """Whether the fullest card of standard TP holds its caches with their slack and the weights."""
    if device.type != "cuda":
        return True
    world = dist.get_world_size()
    plan = contiguous_plan(*tokens.shape, world, batch) if 8 % world == 0 else solve(tokens, world, batch_size=batch)
    most = float(plan.loads(batch * tokens).sum(dim=0).max()) * 4 * config.size
    return most * 1.125 * 1.05 + 6e9 < 0.93 * torch.cuda.get_device_properties(device).total_memory


def main() -> None:
    """Measure every cell until the time is up; rank zero writes the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--heads", type=Path, default=Path(os.environ.get("SEPTET_DATA", "data")) / "long_context/heads"
    )
    parser.add_argument("--tiny", action="store_true", help="gloo on the CPU: shows that it runs, not how fast")
    parser.add_argument("--attention", default="auto", help="backend of decode_attention in the graph, e.g. triton")
    parser.add_argument("--only", default="", help="only the profiles whose name begins so, e.g. duo")
    parser.add_argument("--no-graph", action="store_true", help="no CUDA graphs: all times include launch overhead")
    parser.add_argument("--seconds", type=float, default=190.0, help="no further cell starts after this time")
    options = parser.parse_args()
    begin = time.perf_counter()
    device = torch.device("cpu") if options.tiny else torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    config, repeats = (TINY, 3) if options.tiny else (LLAMA_1B, 20)
    graphs = device.type == "cuda" and not options.no_graph
    rows: list[dict[str, Any]] = []
    skipped = []
    longest = 0.0
    for profile, budget, batch in (("headkv", 64, 6),) if options.tiny else CELLS:
        if not profile.startswith(options.only):
            continue
        name, tokens = head_tokens(profile, budget, config.n_layers, options.heads)
        spent = slowest(time.perf_counter() - begin, device)
        if spent + longest > options.seconds or not fits(tokens, batch, config, device):
            skipped.append(f"{name}, budget {budget}, batch {batch}: no time or no memory")
            continue
        rows += cell(name, tokens, budget, batch, config, device, repeats, graphs, options.attention)
        longest = max(longest, slowest(time.perf_counter() - begin, device) - spent)
        if rank == 0:
            write(options, rows, skipped, device)
    gc.collect()
    if rank == 0:
        write(options, rows, skipped, device)
        print(f"{len(rows)} rows, skipped {skipped}, {time.perf_counter() - begin:.0f} s")
    dist.destroy_process_group()


def write(options: argparse.Namespace, rows: list[dict[str, Any]], skipped: list[str], device: torch.device) -> None:
    """The dated record."""
    words = f"{options.out.name}{' --tiny' if options.tiny else ''} --attention {options.attention}"
    record = {
        "benchmark": "fairkv decode", "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": f"torchrun --nproc-per-node {dist.get_world_size()} benchmarks/fairkv/run_decode.py {words}",
        "machine": {**machine(device.type), "processes": dist.get_world_size(), "backend": dist.get_backend()},
        "versions": versions(), "skipped": skipped, "rows": rows,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    main()
