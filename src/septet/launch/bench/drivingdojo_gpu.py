"""GPU part of ``septet bench drivingdojo``: training and dreaming of ``small`` and ``tiny``, no network, no weights.

``small`` runs in bf16 with flash attention; its peer in every row is the same model with plain math attention and no
compiler, measured in the same run. Every row states its share of the card's dense bf16 peak, or what binds it instead.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from septet.lightning_modules.drivingdojo import WorldModel

PEAKS = {"H100": 989e12, "H200": 989e12}
"""Dense bf16 FLOP/s of the SXM cards (maker's data sheets)."""


class Variant(NamedTuple):
    """How a model is run."""

    name: str
    backend: SDPBackend = SDPBackend.FLASH_ATTENTION
    compile: bool = False
    checkpointing: bool = False


PEER = Variant("math attention, uncompiled", SDPBackend.MATH)
FLASH = Variant("SDPA flash, uncompiled")
COMPILED = Variant("SDPA flash, compiled blocks", compile=True)
SAVING = Variant("SDPA flash, checkpointing", checkpointing=True)


class Plan(NamedTuple):
    """Sizes of a run; the small ones serve the tests, without a compiler."""

    small: dict[str, Any]
    batches: tuple[int, ...]
    compiled: tuple[int, ...]
    saving: tuple[int, ...]
    pairs: tuple[int, ...]
    repeats: int
    steps: int


FULL = Plan(
    small={"size": "small", "frame_size": (64, 128), "frames": 16},
    batches=(1, 2, 4, 16),
    compiled=(1, 16),
    saving=(4, 16),
    pairs=(24, 256, 2048),
    repeats=12,
    steps=8,
)
QUICK = Plan(
    small={"size": "small", "frame_size": (16, 32), "frames": 4, "net": {"dim": 32, "depth": 1, "heads": 2}},
    batches=(1, 2),
    compiled=(),
    saving=(2,),
    pairs=(4,),
    repeats=1,
    steps=2,
)


def rows(device: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of all parts; each is printed when it is measured."""
    plan = QUICK if quick else FULL
    peak = attainable(device, 256 if quick else 8192)
    found = [_row("bf16 matrix product, attainable", peak / 1e12, "TFLOP/s", limit=_limit(device), note=_card(device))]
    found += training(plan, device) + dreaming(plan, device) + tiny(plan, device)
    return found


def _row(name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "value": value, "unit": unit, "peer": "", "peer_value": None, "ratio": None, "limit": ""}
    row = base | {"note": ""} | more
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.2f} times {row['peer']}"
    print(f"  {name}: {value:.4g} {unit}{ratio}; {row['note']}", flush=True)
    return row


def _card(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"


def card_peak(device: str) -> float | None:
    """Dense bf16 FLOP/s of a known card, else None."""
    return next((v for k, v in PEAKS.items() if k in _card(device)), None)


def _limit(device: str) -> str:
    peak = card_peak(device)
    return "unknown card" if peak is None else f"{peak / 1e12:.0f} TFLOP/s dense bf16"


def seconds(work: Callable[[], Any], repeats: int, device: str) -> float:
    """Median wall seconds of a call between synchronisations, after two calls to warm up."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = []
    for number in range(repeats + 2):
        wait()
        start = time.perf_counter()
        work()
        wait()
        if number >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def attainable(device: str, size: int) -> float:
    """FLOP/s of one large bf16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, 10, device)


def build(settings: dict[str, Any], variant: Variant, device: str) -> WorldModel:
    """A random model of fixed seed, its blocks compiled where asked: equal blocks share one compilation."""
    torch.manual_seed(0)
    model = WorldModel(**settings, gradient_checkpointing=variant.checkpointing)
    model.configure_model()
    model.to(device)
    if variant.compile:
        blocks = getattr(model.net, "blocks", None)
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            block.compile(dynamic=False)
    return model


@contextmanager
def running(variant: Variant, device: str) -> Iterator[None]:
    """bf16 under the attention of a variant; memory is given back afterwards."""
    kind = device.split(":")[0]
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with sdpa_kernel(variant.backend), torch.autocast(kind, torch.bfloat16):
        yield
    torch.compiler.reset()
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()


def clip(model: WorldModel, batch: int, frames: int, device: str) -> tuple[Tensor, Tensor]:
    """Random frames and motions."""
    shape = (batch, frames, 3, *model.frame_size)
    return (
        torch.randint(0, 256, shape, dtype=torch.uint8, device=device),
        torch.rand(batch, frames - 1, 2, device=device),
    )


def stepper(model: WorldModel, batch: int, frames: int, device: str) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch."""
    given = clip(model, batch, frames, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.startswith("cuda"))
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        model.loss(*given).backward()
        optimizer.step()

    return step


def flops_of(work: Callable[[], Any]) -> int:
    """Matrix, convolution and attention FLOP of a call (one multiply-add is two)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measured_step(plan: Plan, variant: Variant, batch: int, device: str) -> tuple[float, float]:
    """Median seconds of a training step and its peak memory in GiB."""
    model = build(plan.small, variant, device)
    with running(variant, device):
        took = seconds(stepper(model, batch, model.frames, device), plan.repeats, device)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else 0.0
    return took, peak


def training(plan: Plan, device: str) -> list[dict[str, Any]]:
    """Training steps of ``small``; tokens are latent patches of all frames of the batch."""
    found = []
    for batch in plan.batches:
        model = build(plan.small, FLASH, device)
        with running(FLASH, device):
            work = flops_of(stepper(model, batch, model.frames, device))
        tokens = batch * model.frames * _tokens(model)
        peer, peer_peak = measured_step(plan, PEER, batch, device)
        chosen = {FLASH: True, COMPILED: batch in plan.compiled, SAVING: batch in plan.saving}
        for variant in (v for v, wanted in chosen.items() if wanted):
            took, peak = measured_step(plan, variant, batch, device)
            note = f"{tokens / took:.4g} tokens/s, {_share(work / took, device)}, peak {peak:.2f} GiB"
            note += f" (peer {peer_peak:.2f}), {work / 1e12:.2f} TFLOP a step, bf16, {_card(device)}"
            name = f"train step: small, batch {batch}, {variant.name}"
            more = {"peer": PEER.name, "peer_value": peer, "ratio": peer / took, "limit": _limit(device)}
            found.append(_row(name, took, "s", **more, note=note))
    return found


def _tokens(model: WorldModel) -> int:
    """Tokens of a frame."""
    place = getattr(model.net, "place", None)
    assert isinstance(place, Tensor)
    return int(place.shape[2])


def _share(rate: float, device: str) -> str:
    peak = card_peak(device)
    return f"{rate / 1e12:.4g} TFLOP/s" + ("" if peak is None else f" = {100 * rate / peak:.2g} % of the peak")


def dreaming(plan: Plan, device: str) -> list[dict[str, Any]]:
    """Dreams of ``small``: milliseconds per new frame, and until the first frame of a stream."""
    found = []
    peers: dict[str, float] = {}
    for variant in (PEER, FLASH, COMPILED) if plan.compiled else (PEER, FLASH):
        model = build(plan.small, variant, device).eval()
        sizes = (("one clip", 1), (f"{plan.batches[-1]} clips", plan.batches[-1]))
        for name, batch in sizes[:1] if variant is COMPILED else sizes:
            first, actions = clip(model, batch, model.frames, device)
            dream = partial(model.generate, first[:, :1], actions, steps=plan.steps)
            with running(variant, device):
                work = flops_of(dream) if variant is FLASH else 0
                took = 1000 * seconds(dream, max(2, plan.repeats // 2), device) / (batch * actions.shape[1])
            if variant is PEER:
                peers[name] = took
                continue
            more: dict[str, Any] = {"peer": PEER.name, "peer_value": peers[name], "ratio": peers[name] / took}
            note = f"{model.frames - 1} new frames, Euler {plan.steps}, bf16, {_card(device)}"
            if work:
                note += f"; {_share(work / (took / 1000 * batch * actions.shape[1]), device)}"
            limit = "kernel launches (batch 1)" if batch == 1 else _limit(device)
            found.append(
                _row(f"dream: small, {name}, {variant.name}", took, "ms/frame", **more, limit=limit, note=note)
            )
        if variant is FLASH:
            first, actions = clip(model, 1, model.frames, device)
            with running(variant, device):
                took = 1000 * seconds(partial(_first, model, first[:, :1], actions[0]), plan.repeats, device)
            note = f"whole-clip net: its chunk of {model.frames - 1} frames comes at once"
            found.append(_row("first frame of a stream: small", took, "ms", note=note))
    return found


def _first(model: WorldModel, first: Tensor, actions: Tensor) -> Tensor:
    return next(model.dream(first, actions))


def tiny(plan: Plan, device: str) -> list[dict[str, Any]]:
    """``tiny``: training steps by pairs of frames, and a stream of dreamed frames."""
    found = []
    for pairs in plan.pairs:
        took, work = {}, 0
        for dtype in (torch.float32, torch.bfloat16):
            model = build({"size": "tiny"}, FLASH, device)
            step = stepper(model, pairs, 2, device)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=dtype == torch.bfloat16):
                work = flops_of(step)
                took[dtype] = seconds(step, plan.repeats, device)
        best = took[torch.bfloat16]
        note = f"{pairs / best:.4g} pairs/s, {_share(work / best, device)}"
        more = {
            "peer": "float32 (TF32 convolutions)",
            "peer_value": took[torch.float32],
            "ratio": took[torch.float32] / best,
        }
        limit = "kernel launches" if pairs < 256 else _limit(device)
        found.append(_row(f"train step: tiny, {pairs} pairs, bf16", best, "s", **more, limit=limit, note=note))
    model = build({"size": "tiny"}, FLASH, device).eval()
    first, actions = clip(model, 1, model.frames, device)
    for method in ("euler", "dpmpp_2m"):
        dream = partial(model.generate, first[:, :1], actions, method=method, steps=4)
        spent = 1000 * seconds(dream, max(2, plan.repeats // 2), device) / actions.shape[1]
        found.append(_row(f"dream: tiny, {method} 4", spent, "ms/frame", limit="kernel launches"))
    spent = 1000 * seconds(partial(_first, model, first[:, :1], actions[0]), plan.repeats, device)
    found.append(_row("first frame of a stream: tiny", spent, "ms", limit="kernel launches"))
    return found
