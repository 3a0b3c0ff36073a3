"""Frechet distance against stored values and its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.kernels.frechet import frechet_distance, frechet_from_features, gaussian_moments


@pytest.fixture(scope="module")
def stored():
    with np.load(golden("drivingdojo", "frechet.npz")) as file:
        return {k: torch.from_numpy(file[k]) for k in file}


@pytest.mark.parametrize("case", ["full_rank", "rank_deficient", "offset", "float32_like"])
def test_features(stored, case):
    real, fake, want = (stored[f"{case}/{k}"] for k in ("real", "fake", "fd"))
    torch.testing.assert_close(frechet_from_features(real, fake), want, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(frechet_from_features(real.float(), fake.float()), want, atol=1e-4, rtol=1e-5)
    assert abs(frechet_from_features(real, real).item()) <= 1e-6
    by_moments = frechet_distance(*gaussian_moments(real), *gaussian_moments(fake))
    torch.testing.assert_close(by_moments, want, atol=5e-6, rtol=1e-6)


def test_diagonal(stored):
    got = frechet_distance(
        stored["diag_mu1"], stored["diag_var1"].diag(), stored["diag_mu2"], stored["diag_var2"].diag()
    )
    torch.testing.assert_close(got, stored["diag_fd"])


def test_rotation_leaves_it_unchanged():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 30, 8, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    torch.testing.assert_close(frechet_from_features(real @ turn, fake @ turn), frechet_from_features(real, fake))


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), "widths"),
        (torch.zeros(1, 3), torch.zeros(4, 3), "two rows"),
        (torch.full((4, 3), float("nan")), torch.zeros(4, 3), "not finite"),
    ],
)
def test_bad_features(real, fake, message):
    with pytest.raises(ValueError, match=message):
        frechet_from_features(real, fake)


def test_bad_moments():
    with pytest.raises(ValueError, match="one extractor"):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3))
