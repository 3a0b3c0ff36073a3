"""EDM: preconditioning, noise schedules, guidance and samplers (Karras et al. 2022, tables 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

METHODS = ("euler", "heun", "dpmpp_2m")
Method = Literal["euler", "heun", "dpmpp_2m"]


class Precondition(NamedTuple):
    """Factors of ``D = c_skip x + c_out F(c_in x, c_noise)`` and the loss weight, all shaped like sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor
    weight: Tensor


def edm_precondition(sigma: Tensor, sigma_data: float = 0.5, form: Literal["edm", "v"] = "edm") -> Precondition:
    """Preconditioning of a denoiser (Karras et al. 2022, table 1); ``v`` flips c_out: the form of SVD with d = 1.

    Args:
        sigma: noise levels, any shape.
        sigma_data: standard deviation d of the data.
        form: ``edm`` or ``v``.

    Raises:
        ValueError: unknown form or ``sigma_data`` not above 0.
    """
    if form not in ("edm", "v"):
        raise ValueError(f"unknown form {form!r}: choose 'edm' or 'v'")
    if sigma_data <= 0:
        raise ValueError(f"sigma_data={sigma_data} is not above 0")
    s2, d2 = sigma.square(), sigma_data**2
    total = s2 + d2
    c_out = sigma * sigma_data / total.sqrt()
    return Precondition(
        c_skip=d2 / total,
        c_out=-c_out if form == "v" else c_out,
        c_in=1 / total.sqrt(),
        c_noise=sigma.log() / 4,
        weight=total / (sigma * sigma_data).square(),
    )


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Tensor:
    """Noise levels from high to low, then 0 (equation 5): ``(steps+1,)`` float64.

    Raises:
        ValueError: ``steps`` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} is below 1")
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, ramp.new_zeros(1)])


def lognormal_sigma(normal: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Training noise levels ``exp(p_mean + p_std n)`` of standard normals n."""
    return (p_mean + p_std * normal).exp()


def guidance_ramp(frames: int, low: float = 1.0, high: float = 3.0) -> Tensor:
    """Guidance weights that grow linearly over the frames, ``(frames,)`` float64."""
    return torch.linspace(low, high, frames, dtype=torch.float64)


def combine_guidance(
    none: Tensor, image: Tensor, both: Tensor, w_image: float | Tensor, w_action: float | Tensor
) -> Tensor:
    """Separate guidance for image and action: ``none + w_i (image - none) + w_a (both - image)``."""
    return none + w_image * (image - none) + w_action * (both - image)


def sample(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor, method: str = "euler") -> Tensor:
    """Follow the probability-flow ODE from ``sigmas[0]`` to ``sigmas[-1]``.

    Args:
        denoise: maps (x, sigma 0-d) to the clean estimate, shaped like x.
        x: start, already scaled by ``sigmas[0]``.
        sigmas: decreasing, usually ending at 0, ``(N+1,)``.
        method: ``euler``, ``heun`` (algorithm 1 without churn) or ``dpmpp_2m`` (DPM-Solver++ 2M).

    Raises:
        ValueError: unknown method or fewer than two sigmas.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}")
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas of shape {tuple(sigmas.shape)}: expected at least a start and an end")
    moving = [s > 0 for s in sigmas[1:].tolist()]  # known here: asking the device would wait for it at every step
    sigmas = sigmas.to(x.device, x.dtype)
    if method == "dpmpp_2m":
        return _dpmpp_2m(denoise, x, sigmas, moving)
    for (now, then), more in zip(itertools.pairwise(sigmas), moving, strict=True):
        slope = (x - denoise(x, now)) / now
        moved = x + slope * (then - now)
        if method == "heun" and more:
            slope = (slope + (moved - denoise(moved, then)) / then) / 2
            moved = x + slope * (then - now)
        x = moved
    return x


def _dpmpp_2m(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor, moving: Sequence[bool]) -> Tensor:
    """Second-order multistep solver in log sigma; the first step and the step to 0 are of first order."""
    previous: Tensor | None = None
    last_h = x.new_zeros(())
    for (now, then), more in zip(itertools.pairwise(sigmas), moving, strict=True):
        clean = denoise(x, now)
        if not more:
            return clean
        h = (now / then).log()
        mixed = clean if previous is None else (1 + h / (2 * last_h)) * clean - h / (2 * last_h) * previous
        x = (then / now) * x - torch.expm1(-h) * mixed
        previous, last_h = clean, h
    return x
