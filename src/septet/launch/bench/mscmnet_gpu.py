"""A training step of 96 rows of 384 x 192 on one GPU, with each setting added in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from septet.launch.bench.mscmnet import row, seconds
from septet.lightning_modules.mscmnet.losses import quadruple_center_triplet
from septet.lightning_modules.mscmnet.model import QuadStreamNet

LIMIT = "<= 0.10 s"


class Variant(NamedTuple):
    """Settings of one row."""

    name: str
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    tf32: bool = True
    benchmark: bool = True
    fused: bool = True
    compile: bool = False


VARIANTS = (
    Variant("float32", torch.float32, False, False, False, False),
    Variant("bf16", torch.bfloat16, False, False, False, False),
    Variant("bf16 channels_last", torch.bfloat16, True, False, False, False),
    Variant("bf16 channels_last, tf32", torch.bfloat16, True, True, False, False),
    Variant("bf16 channels_last, tf32, cudnn.benchmark", torch.bfloat16, True, True, True, False),
    Variant("bf16 channels_last, tf32, cudnn.benchmark, fused SGD"),
    Variant("bf16 channels_last, tf32, cudnn.benchmark, fused SGD, compile", compile=True),
)


def training_steps(quick: bool) -> list[dict[str, Any]]:
    """Wall seconds of forward, both losses, backward and SGD; the settings are MSCMNet's and the trainer's."""
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS[2:4] if quick else VARIANTS:
        torch.cuda.reset_peak_memory_stats()
        with backends(variant):
            took = seconds(stepper(variant), 3 if quick else 20, time.perf_counter)
        peak = torch.cuda.max_memory_allocated() / 1e9
        note = f"{torch.cuda.get_device_name()}, peak {peak:.1f} GB; the published log: 0.43 s on an unknown GPU"
        rows.append(row(f"training step, {variant.name}", took, "s", limit=LIMIT, note=note))
        print(f"  {rows[-1]['name']}: {took:.4f} s, peak {peak:.1f} GB", flush=True)
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return rows


@contextmanager
def backends(variant: Variant) -> Iterator[None]:
    """The process' switches for one variant, put back afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high" if variant.tf32 else "highest")
    torch.backends.cudnn.benchmark = variant.benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]


def stepper(variant: Variant) -> Callable[[], None]:
    """One step on fixed random images; called twice before it is timed (compilation, choice of kernels)."""
    torch.manual_seed(0)
    net = QuadStreamNet(395).cuda().train()
    if variant.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant.compile:
        net.compile()
    fused: dict[str, Any] = {"fused": True} if variant.fused else {}
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-4, 0.9, weight_decay=5e-4, nesterov=True, **fused)
    streams = torch.randn(4, 24, 3, 384, 192, device="cuda")
    labels = torch.arange(6, device="cuda").repeat_interleave(4).repeat(4)

    def step() -> None:
        with torch.autocast("cuda", variant.dtype, enabled=variant.dtype != torch.float32):
            pool, logits = net(*streams)
        wide = pool.double() if variant.tf32 else pool.float()  # as the training step does
        value = F.cross_entropy(logits.float(), labels) + quadruple_center_triplet(wide, labels).float()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    step()
    step()
    return step
