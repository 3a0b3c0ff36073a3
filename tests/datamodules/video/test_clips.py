"""Pairing, splitting and windows."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.paths import golden

from septet.datamodules.video import Camera, check_actions, parse_action, split_by_vehicle, window_start


def test_action_text():
    stored = json.loads(golden("drivingdojo", "action_text.json").read_text())
    for text, want in stored["ok"]:
        assert parse_action(text) == tuple(want)
    for text in stored["malformed"]:
        with pytest.raises(ValueError, match="malformed action"):
            parse_action(text)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=60), st.integers(0, 5))
def test_a_vehicle_is_in_one_part(pairs, seed):
    clips = [f"{v:03d}_s{n}_1_2" for v, n in pairs]
    parts = split_by_vehicle(clips, (0.7, 0.3), seed)
    vehicles = {k: {c.split("_")[0] for c in v} for k, v in parts.items()}
    assert not vehicles["train"] & vehicles["val"]
    assert sorted(parts["train"] + parts["val"]) == sorted(clips)
    assert len(vehicles["train"]) == round(0.7 * len({c.split("_")[0] for c in clips}))


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.integers(0, 1000))
def test_windows_fit(length, frames, stride, epoch, index):
    need = (frames - 1) * stride + 1
    given = {"seed": 1, "epoch": epoch, "index": index}
    if need > length:
        with pytest.raises(ValueError, match="needs"):
            window_start(length, frames, stride, **given)
        return
    start = window_start(length, frames, stride, **given)
    assert 0 <= start <= length - need
    assert start == window_start(length, frames, stride, **given)


def test_windows_differ_by_epoch():
    assert len({window_start(1000, 8, 1, seed=0, epoch=e, index=3) for e in range(20)}) > 15


def test_the_last_row_is_ignored():
    assert check_actions(torch.ones(8, 2), 8).shape == (7, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_actions(torch.zeros(5, 2), 8), "5 actions beside 8 frames"),
        (lambda: split_by_vehicle(["a_1"], (0.9, 0.3)), "sum to more"),
        (lambda: window_start(8, 0, 1, seed=0, epoch=0, index=0), "at least 1"),
        (lambda: Camera("RADIAL", (1, 1, 1, 1), 4, 4), "unknown camera model"),
        (lambda: Camera("PINHOLE", (1, 1, 1), 4, 4), "4 parameters"),
        (lambda: Camera("PINHOLE", (1, 1, 1, 1), 0, 4), "0x4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
