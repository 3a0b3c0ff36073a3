"""Losses and their gradients against numbers of the published code."""

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.mscmnet.losses import (
    batch_hard_triplet,
    hetero_center_triplet,
    kl_align,
    quadruple_center_triplet,
    weighted_regularized_triplet,
)


@pytest.fixture(scope="module")
def file():
    return np.load(golden("mscmnet", "losses.npz"))


def value_and_grad(loss, file, case):
    x = torch.from_numpy(file[f"{case}_x"]).requires_grad_()
    out = loss(x, torch.from_numpy(file[f"{case}_y"]))
    out.backward()
    return out.item(), x.grad.numpy()


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3", "c4"])
@pytest.mark.parametrize("margin", [0.7, 0.3, 0.0])
def test_qct(file, case, margin):
    value, grad = value_and_grad(lambda x, y: quadruple_center_triplet(x, y, margin=margin), file, case)
    assert value == pytest.approx(float(file[f"{case}_qct_m{margin}"]), abs=1e-6)
    assert np.isfinite(grad).all()
    if case != "c3":  # one image per identity and stream: the published gradient is NaN
        expected = file[f"{case}_qct_m{margin}_grad"]
        np.testing.assert_allclose(grad[: len(expected)], expected, atol=1e-6)


@pytest.mark.parametrize("case", ["a0", "a1"])
@pytest.mark.parametrize("margin", [0.7, 0.3])
def test_qct_with_the_intra_term(file, case, margin):
    alpha = float(file[f"{case}_alpha"])
    value, grad = value_and_grad(lambda x, y: quadruple_center_triplet(x, y, margin=margin, alpha=alpha), file, case)
    assert value == pytest.approx(float(file[f"{case}_qct_m{margin}"]), abs=1e-6)
    np.testing.assert_allclose(grad, file[f"{case}_qct_m{margin}_grad"], atol=1e-6)


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3", "c4"])
def test_triplets(file, case):
    value, grad = value_and_grad(batch_hard_triplet, file, case)
    assert value == pytest.approx(float(file[f"{case}_ori0.3"]), abs=2e-6)
    expected = file[f"{case}_ori0.3_grad"]
    np.testing.assert_allclose(grad[: len(expected)], expected, atol=1e-6)
    value, grad = value_and_grad(weighted_regularized_triplet, file, case)
    assert value == pytest.approx(float(file[f"{case}_wrt"]), abs=5e-6)
    expected = file[f"{case}_wrt_grad"]
    np.testing.assert_allclose(grad[: len(expected)], expected, atol=3e-6)
    value, _ = value_and_grad(lambda x, y: weighted_regularized_triplet(x, y, normalize=True), file, case)
    assert value == pytest.approx(float(file[f"{case}_wrt_normed"]), abs=5e-6)
    value, _ = value_and_grad(hetero_center_triplet, file, case)
    assert value == pytest.approx(float(file[f"{case}_hct"]), abs=2e-6)


@pytest.mark.parametrize(("dim", "name"), [(0, "sample"), (1, "channel"), (2, "height"), (3, "weight")])
def test_kl(file, dim, name):
    ours = kl_align(torch.from_numpy(file["kl_a"]), torch.from_numpy(file["kl_b"]), dim=dim)
    assert float(ours) == pytest.approx(float(file[f"kl_{name}"]), abs=1e-6)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_two_streams(case):
    file = np.load(golden("mscmnet", "agw.npz"))
    value, grad = value_and_grad(weighted_regularized_triplet, file, case)
    assert value == pytest.approx(float(file[f"{case}_wrt"]), abs=5e-6)
    np.testing.assert_allclose(grad, file[f"{case}_wrt_grad"], atol=3e-6)
    value, _ = value_and_grad(lambda x, y: weighted_regularized_triplet(x, y, normalize=True), file, case)
    assert value == pytest.approx(float(file[f"{case}_wrt_norm"]), abs=5e-6)
    value, _ = value_and_grad(batch_hard_triplet, file, case)
    assert value == pytest.approx(float(file[f"{case}_ori"]), abs=2e-6)
