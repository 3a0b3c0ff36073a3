"""Schedules, preconditioning, samplers and the action encoder against stored values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.drivingdojo.actions import ActionEncoder
from septet.lightning_modules.drivingdojo.diffusion import (
    combine_guidance,
    edm_precondition,
    guidance_ramp,
    karras_sigmas,
    lognormal_sigma,
    sample,
)


@pytest.fixture(scope="module")
def stored():
    with np.load(golden("drivingdojo", "edm_svd.npz")) as file:
        return {k: torch.from_numpy(file[k]) for k in file}


def _close(got, want, atol, rtol=0.0):
    torch.testing.assert_close(got.double(), want.double(), atol=atol, rtol=rtol)


@pytest.mark.parametrize("steps", [2, 5, 8, 14, 25, 40])
def test_svd_schedule(stored, steps):
    sigmas = karras_sigmas(steps)
    _close(sigmas, stored[f"svd_sigmas_{steps}"], 1e-7, 2e-6)
    _close(edm_precondition(sigmas[:-1], 1.0, "v").c_noise, stored[f"svd_timesteps_{steps}"], 2e-6)
    assert math.sqrt(float(sigmas[0]) ** 2 + 1) == pytest.approx(
        stored[f"svd_init_noise_sigma_{steps}"].item(), abs=1e-4
    )


@pytest.mark.parametrize("name", ["karras_x_6", "karras_x_12"])
def test_other_schedules(stored, name):
    steps, low, high, rho = stored[f"{name}_args"].tolist()
    _close(karras_sigmas(int(steps), low, high, rho), stored[name], 1e-6, 1e-6)


@pytest.mark.parametrize(("name", "form"), [("edm05", "edm"), ("edm02", "edm"), ("v1", "v"), ("v13", "v")])
def test_preconditioning(stored, name, form):
    factors = edm_precondition(stored["sigma"], stored[f"{name}_sigma_data"].item(), form)
    for key, value in factors._asdict().items():
        _close(value, stored[f"{name}_{key}"], 1e-9, 1e-9)


def test_noise_and_guidance(stored):
    _close(lognormal_sigma(stored["normal"], -0.4, 1.2), stored["lognormal_m0.4_1.2"], 1e-9, 1e-9)
    _close(lognormal_sigma(stored["normal"], 0.7, 1.6), stored["lognormal_0.7_1.6"], 1e-9, 1e-9)
    _close(guidance_ramp(14), stored["cfg_ramp_14"], 1e-6)
    _close(guidance_ramp(25), stored["cfg_ramp_25"], 1e-6)
    _close(guidance_ramp(6, 0.5, 4.0), stored["cfg_ramp_6_0.5_4"], 1e-6)
    _close(combine_guidance(stored["g_none"], stored["g_image"], stored["g_both"], 1.5, 3), stored["g_out_1.5_3"], 1e-9)


@pytest.mark.parametrize("method", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["linear", "tanh"])
def test_samplers(stored, name, method):
    d = stored[f"sampler_{name}_sigma_data"].item()
    nets = {"linear": lambda x, s: x * d**2 / (d**2 + s**2), "tanh": lambda x, s: d * torch.tanh(x / (d * (1 + s)))}
    got = sample(nets[name], stored[f"sampler_{name}_x"], stored[f"sampler_{name}_sigmas"], method)
    _close(got, stored[f"sampler_{name}_{method}"], 1e-8, 1e-6)


def test_svd_constant_and_first_step(stored):
    value = stored["svd_const_c"].item()
    end = sample(lambda x, s: torch.full_like(x, value), stored["svd_const_x"].float(), karras_sigmas(5))
    _close(end, stored["svd_const_traj"][-1], 5e-4)
    sigmas = karras_sigmas(5)
    f = edm_precondition(sigmas[0], 1.0, "v")
    x = stored["svd_step_x"].double()
    clean = f.c_skip * x + f.c_out * stored["svd_step_model_output"].double()
    _close(f.c_in * x, stored["svd_step_scaled"], 1e-4, 1e-6)
    _close(clean, stored["svd_step_pred_x0"], 1e-4, 1e-6)
    _close(sample(lambda *_: clean, x, sigmas[:2]), stored["svd_step_prev"], 1e-4, 1e-6)


def test_action_encoder():
    with np.load(golden("drivingdojo", "action_encoder.npz")) as file:
        weights = {k[2:]: torch.from_numpy(file[k]) for k in file if k.startswith("w:")}
        actions = torch.from_numpy(file["actions_m"])
        for scale, key in ((0.1, "out"), (0.5, "out_scale_0.5")):
            encoder = ActionEncoder(16, scale).eval()
            encoder.load_state_dict(weights, strict=True)
            torch.testing.assert_close(encoder(actions), torch.from_numpy(file[key]), atol=2e-6, rtol=2e-6)
    assert sum(p.numel() for p in ActionEncoder().parameters()) == 2_113_536


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: karras_sigmas(0), "steps=0"),
        (lambda: edm_precondition(torch.ones(1), form="x"), "unknown form"),
        (lambda: edm_precondition(torch.ones(1), 0.0), "sigma_data"),
        (lambda: sample(lambda x, s: x, torch.ones(1), karras_sigmas(2), "rk4"), "unknown method"),
        (lambda: sample(lambda x, s: x, torch.ones(1), torch.ones(1)), "start and an end"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
