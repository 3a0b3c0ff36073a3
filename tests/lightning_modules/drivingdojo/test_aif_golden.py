"""AIF against the official script's numbers and an independent implementation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.scoring import score_clip
from septet.lightning_modules.drivingdojo.trajectory import Trajectory

PROTOCOLS = ("strict", "paper", "official")
OFFICIAL = (
    "exact_scaled", "lateral_after_15", "scale_from_mean_of_ratios", "outlier_step_dropped", "one_frame_unregistered",
    "stationary_command",
)  # fmt: skip


@pytest.fixture(scope="module")
def stored():
    with np.load(golden("drivingdojo", "aif_protocols.npz")) as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file}
    return arrays, json.loads(golden("drivingdojo", "aif_protocols.json").read_text())


def _trajectory(arrays, name, info):
    return Trajectory(arrays[f"{name}/R"], arrays[f"{name}/C"], arrays[f"{name}/valid"], info)


def _same(got, want, tolerance=1e-7):
    want = math.nan if want is None else want
    assert got == pytest.approx(want, abs=tolerance, rel=tolerance, nan_ok=True)


def _means(score):
    return score.errors.mean(0).tolist() if len(score.steps) else [math.nan, math.nan]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_clip(stored, protocol):
    arrays, truth = stored
    assert len(truth["clips"]) == 24
    for name, clip in truth["clips"].items():
        score = score_clip(arrays[f"{name}/commanded"], _trajectory(arrays, name, clip["info"]), protocol)
        want = clip[protocol]
        assert (score.status, score.reason or None, score.steps.tolist()) == (
            want["status"], want["reason"] or None, want["steps"],
        ), name  # fmt: skip
        if score.status == "scored":
            assert score.scale == pytest.approx(want["scale"], abs=1e-9, rel=1e-7), name
        for got, key in zip(_means(score), ("ex", "ey"), strict=True):
            _same(got, want[key])
        torch.testing.assert_close(score.errors, arrays[f"{name}/{protocol}/errors"], atol=1e-7, rtol=1e-7)
        assert score.obeyed == want.get("obeyed")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_clips_and_merging(stored, protocol):
    arrays, truth = stored
    whole, parts = ActionInstructionFollowing(protocol=protocol), []
    for half in (list(truth["clips"])[::2], list(truth["clips"])[1::2]):
        part = ActionInstructionFollowing(protocol=protocol)
        for name in half:
            given = {"actions": [arrays[f"{name}/commanded"]],
                     "trajectories": [_trajectory(arrays, name, truth["clips"][name]["info"])]}  # fmt: skip
            part.update(**given)
            whole.update(**given)
        parts.append(part)
    parts[0].merge_state(parts[1])
    for metric in (whole, parts[0]):
        values = {k: float(v) for k, v in metric.compute().items()}
        for key, want in truth["compute"][protocol].items():
            _same(values[key], want)
    whole.reset()
    whole.update(actions=[arrays["braking/commanded"]], trajectories=[_trajectory(arrays, "braking", {})])
    _same(float(whole.compute()["ex"]), truth["clips"]["braking"][protocol]["ex"])


def test_metric_scale(stored):
    arrays, truth = stored
    for name, by_protocol in truth["metric_scale"].items():
        for protocol, want in by_protocol.items():
            path = _trajectory(arrays, name, truth["clips"][name]["info"])
            score = score_clip(arrays[f"{name}/commanded"], path, protocol, metric_scale=True)
            assert score.status == want["status"]
            assert score.steps.tolist() == want["steps"]
            for got, key in zip(_means(score), ("ex", "ey"), strict=True):
                _same(got, want[key])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", OFFICIAL)
def test_official_cases(case, protocol):
    with np.load(golden("drivingdojo", "aif_official_cases.npz")) as file:
        arrays = {k: file[k] for k in file if k.startswith(case)}
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind in "fb"}
    score = score_clip(tensors[f"{case}/commanded"], _trajectory(tensors, case, {}), protocol)
    status = score.status + (f":{score.reason}" if score.reason else "")
    assert status == str(arrays[f"{case}/{protocol}_status"])
    for got, want in zip(_means(score), arrays[f"{case}/{protocol}"].tolist(), strict=True):
        _same(got, want)
    if status == "scored":
        _same(score.scale, float(arrays[f"{case}/{protocol}_scale"]))
    if protocol == "official":
        for got, want in zip(_means(score), arrays[f"{case}/official_script"].tolist(), strict=True):
            _same(got, want, 1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_official_sample(protocol):
    with np.load(golden("drivingdojo", "aif_sample.npz")) as file:
        path = Trajectory(file["R"], file["C"], torch.ones(30).bool())
        score = score_clip(torch.from_numpy(file["commanded"]), path, protocol)
        for got, want in zip(_means(score), file[protocol].tolist(), strict=True):
            _same(got, want, 1e-6)
        _same(score.scale, float(file[f"{protocol}_scale"]), 1e-6)
