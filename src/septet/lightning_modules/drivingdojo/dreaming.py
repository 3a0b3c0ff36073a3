"""How a world model dreams: latents of new frames, sampled in chunks that begin with known ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from septet.lightning_modules.drivingdojo.actions import known_yaw
from septet.lightning_modules.drivingdojo.diffusion import METHODS, combine_guidance, karras_sigmas, sample

if TYPE_CHECKING:
    from septet.lightning_modules.drivingdojo.module import WorldModel


def asked(actions: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """A stream of (forward, right) as tensors ``(1, 2)`` with their chord-rule yaw ``(1,)``."""
    for action in actions:
        step = torch.as_tensor(action, dtype=torch.float32, device=device).view(1, 2)
        yield step, known_yaw(step, None)


def latents(
    model: WorldModel, first: Tensor, asked: Iterable[tuple[Tensor, Tensor]], seeds: list[int],
    steps: int | None = None, method: str | None = None, guidance: tuple[float, float] | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Latents ``(B, m, C, h, w)`` of the new frames, sampled in chunks that begin with known latents."""
    model.configure_model()
    assert model.net is not None
    steps, method = model.steps if steps is None else steps, method or model.method
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}")
    sigmas = karras_sigmas(steps, model.preset.sigma_min, model.preset.sigma_max)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    known = list(model.codec.encode(first).unbind(1))
    model._see(first)
    stream, taken = iter(asked), list[tuple[Tensor, Tensor]]()
    reach = int(getattr(model.net, "reach", 1))
    need = len(known)
    while True:
        keep = min(len(known), max(reach, 1), model.frames - 1)
        room = 1 if reach == 1 else model.frames - keep
        while len(taken) < need - 1 + room and (step := next(stream, None)) is not None:
            taken.append(step)
        new = len(taken) - (need - 1)
        if new < 1:
            return
        window = taken[need - keep :]
        motions = torch.stack([a for a, _ in window], 1), torch.stack([y for _, y in window], 1)
        fresh = _chunk(model, known[-keep:], *motions, generators, sigmas, method, guidance)
        known += fresh.unbind(1)
        need += fresh.shape[1]
        yield fresh


def _chunk(
    model: WorldModel, known: list[Tensor], actions: Tensor, yaw: Tensor, generators: list[torch.Generator],
    sigmas: Tensor, method: str, guidance: tuple[float, float] | None,
) -> Tensor:  # fmt: skip
    """New latents ``(B, m, C, h, w)`` after the known ones, sampled together."""
    count = actions.shape[1] + 1
    given = torch.stack(known, 1)
    new = count - given.shape[1]
    start = torch.stack([torch.randn(new, *given.shape[2:], generator=g) for g in generators]).to(given)
    given = torch.cat([given, torch.zeros_like(start)], 1)
    mask = torch.arange(count, device=given.device).expand(len(given), count) < len(known)
    init = (float(sigmas[0]) ** 2 + (1.0 if model.preset.form == "v" else 0.0)) ** 0.5

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return _guided(model, x, sigma.expand(mask.shape), given, mask, actions, yaw, guidance or model.guidance)

    x = torch.where(mask[..., None, None, None], given, torch.cat([given[:, : len(known)], start * init], 1))
    return sample(denoise, x, sigmas, method)[:, len(known) :]


def _guided(
    model: WorldModel, x: Tensor, sigma: Tensor, given: Tensor, known: Tensor, actions: Tensor, yaw: Tensor,
    guidance: tuple[float, float],
) -> Tensor:  # fmt: skip
    """One pass, or three combined where a weight is not 1."""
    off, on = (torch.full((len(x),), flag, device=x.device) for flag in (False, True))
    both = model.denoise(x, sigma, given, known, actions, yaw, off, off)
    if tuple(guidance) == (1.0, 1.0):
        return both
    image = model.denoise(x, sigma, given, known, actions, yaw, off, on)
    none = model.denoise(x, sigma, given, known, actions, yaw, on, on)
    return combine_guidance(none, image, both, *guidance)
