"""Frechet distance ``|m1-m2|^2 + tr C1 + tr C2 - 2 tr (C1^1/2 C2 C1^1/2)^1/2`` in float64 (FID: Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and unbiased covariance ``(D, D)`` of features ``(N, D)``, float64.

    Raises:
        ValueError: fewer than two rows, not two dimensions, or values that are not finite.
    """
    features = _checked(features, "features")
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor) -> Tensor:
    """Distance of two Gaussians by symmetric eigenvalues; prefer :func:`frechet_from_features` where rank is missing.

    Args:
        m1: mean ``(D,)``.
        c1: covariance ``(D, D)``.
        m2: mean ``(D,)``.
        c2: covariance ``(D, D)``.

    Returns:
        0-d float64.

    Raises:
        ValueError: if the widths differ.
    """
    m1, c1, m2, c2 = (x.double() for x in (m1, c1, m2, c2))
    if m1.shape != m2.shape or c1.shape != c2.shape or c1.shape != (len(m1), len(m1)):
        raise ValueError(f"Gaussians of widths {tuple(c1.shape)} and {tuple(c2.shape)}: use one extractor for both")
    values, vectors = torch.linalg.eigh(c1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    inner = root @ c2 @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    result: Tensor = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross
    return result


def frechet_from_features(real: Tensor, fake: Tensor) -> Tensor:
    """Distance of the Gaussians of two feature sets, exact also where N < D.

    With centred features A, B the trace of the root is the sum of singular values of ``A B^T / sqrt((n-1)(m-1))``:
    no covariance and no square root of rounding errors.

    Args:
        real: ``(N, D)``.
        fake: ``(M, D)``.

    Returns:
        0-d float64.

    Raises:
        ValueError: features of different width, fewer than two rows, or not finite.
    """
    real, fake = _checked(real, "real"), _checked(fake, "fake")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of widths {real.shape[1]} and {fake.shape[1]}: use one extractor for both")
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    a, b = _factor(real), _factor(fake)
    result: Tensor = shift + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return result


def _factor(features: Tensor) -> Tensor:
    """A matrix F of at most D rows with ``F^T F`` the unbiased covariance."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    result: Tensor = torch.linalg.qr(centred, mode="r")[1] if len(centred) > centred.shape[1] else centred
    return result


def _checked(features: Tensor, name: str) -> Tensor:
    """Features as finite float64 ``(N, D)`` with N >= 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} of shape {tuple(features.shape)}: expected (N, D) with at least two rows")
    features = features.detach().double()
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{name} holds values that are not finite: check the extractor")
    return features
