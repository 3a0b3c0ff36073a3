"""Frechet distance of clips, drift measures and files."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from septet.lightning_modules.drivingdojo import drift, media
from septet.lightning_modules.drivingdojo.video_metrics import (
    FeatureExtractor,
    VideoFrechetDistance,
    random_conv3d,
    torchscript,
)


def _clips(count, shift=0):
    generator = torch.Generator().manual_seed(count)
    return (torch.randint(0, 200, (count, 4, 3, 16, 16), generator=generator) + shift).to(torch.uint8)


def test_distance_grows_with_the_difference():
    values = []
    for shift in (0, 20, 50):
        metric = VideoFrechetDistance(random_conv3d())
        metric.update(_clips(20), real=True)
        metric.update(_clips(20, shift), real=False)
        values.append(float(metric.compute()))
    assert abs(values[0]) < 1e-6
    assert values[0] < values[1] < values[2]
    assert metric.key == "frd_random"


def test_an_extractor_is_named_by_its_weights(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # users' files are TorchScript; torch now prefers export
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 2 * 8 * 8, 5))
        module = torch.jit.trace(net, torch.zeros(1, 3, 2, 8, 8))
    module.save(str(tmp_path / "net.pt"))
    metric = VideoFrechetDistance(torchscript(tmp_path / "net.pt", size=8))
    assert metric.key.startswith("frd/net:")
    metric.update(_clips(4)[:, :2], real=True)
    metric.update(_clips(5)[:, :2], real=False)
    with pytest.warns(UserWarning, match="biased"):
        assert metric.compute() > 0
    with pytest.raises(FileNotFoundError, match="none ship"):
        torchscript(tmp_path / "other.pt")


def test_one_clip_has_no_distance():
    metric = VideoFrechetDistance(random_conv3d())
    metric.update(_clips(1), real=True)
    metric.update(_clips(1), real=False)
    assert metric.compute().isnan()


def test_bad_clips():
    metric = VideoFrechetDistance(FeatureExtractor(torch.nn.Identity(), lambda c: c, "x"))
    with pytest.raises(ValueError, match="expected uint8"):
        metric.update(torch.zeros(1, 2, 3, 4, 4), real=True)


def test_drift_measures():
    frames = _clips(2)
    assert float(drift.decibel(drift.squared_error(frames, frames)).min()) == pytest.approx(100)
    flat = torch.zeros(1, 3, 3, 4, 4, dtype=torch.uint8)
    flat[:, 2] = 30
    assert drift.colour_drift(flat, flat[:, 0]).tolist()[0] == pytest.approx([0, 0, 30 * math.sqrt(3)])
    assert drift.seam_jump(flat.repeat(1, 2, 1, 1, 1), []) != drift.seam_jump(flat, [2])
    assert drift.chunk_seams(1, 8, 20, 3) == [8, 13, 18]
    assert drift.chunk_seams(1, 8, 20, 1) == []
    assert drift.blocks(1, 8, 20, 3, 5) == [(1, 8), (8, 13), (13, 18), (18, 20)]
    assert drift.blocks(1, 8, 9, 1, 5) == [(1, 6), (6, 9)]


def test_pictures_and_mp4(tmp_path):
    clip = _clips(1)[0]
    strip = media.film_strip([clip, clip[:2]])
    assert strip.shape == (2 * 34, 4 * 34, 3)
    assert strip.dtype == np.uint8
    av = pytest.importorskip("av")
    path = media.write_mp4(tmp_path / "a" / "b.mp4", clip[:, :, :15, :15], 5)
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (16, 16, 3)
