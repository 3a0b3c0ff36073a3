"""Geometric estimators on small and on real video, the pool, the mask and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.paths import golden, shared_data

from septet.datamodules.video import Camera, StreetSimulator
from septet.datamodules.video.readers import KittiReader
from septet.lightning_modules.drivingdojo.estimators import build_estimator
from septet.lightning_modules.drivingdojo.metrics import score_clip
from septet.lightning_modules.drivingdojo.trajectory import (
    EstimatorPool,
    InverseDynamicsEstimator,
    OpenCVEstimator,
    PycolmapEstimator,
    Trajectory,
    bonnet_mask,
)

DRIVE = torch.tensor([[0.9, 0.02]]).repeat(8, 1)


@pytest.fixture(scope="module")
def street():
    return StreetSimulator(160, 288, supersample=2).clip(1, actions=DRIVE)


def test_pycolmap_is_exact_and_repeatable(street):
    pytest.importorskip("pycolmap")
    estimator = PycolmapEstimator(matcher="sequential:4", max_features=1500)
    first, second = (estimator.estimate(street.frames, street.camera) for _ in range(2))
    assert first.valid.all()
    assert torch.equal(first.C, second.C)
    assert torch.equal(first.R, second.R)
    score = score_clip(DRIVE, first)
    assert score.status == "scored"
    assert score.errors.mean(0).max() < 0.05
    assert first.info["median_depth"] > 0


def test_pycolmap_fails_clearly_on_a_still_clip():
    pytest.importorskip("pycolmap")
    flat = torch.full((6, 3, 64, 96), 128, dtype=torch.uint8)
    camera = Camera("PINHOLE", (50, 50, 48, 32), 96, 64)
    path = PycolmapEstimator(max_features=200).estimate(flat, camera)
    assert not path.valid.any()
    score = score_clip(DRIVE[:5], path)
    assert (score.status, score.reason) == ("failed", "few_pairs")


@pytest.mark.slow
def test_pycolmap_on_kitti():
    pytest.importorskip("pycolmap")
    reader = KittiReader(shared_data("video/kitti_odo_a"))
    clip = reader.read(reader.clips[0], size=(185, 613))
    path = PycolmapEstimator(matcher="sequential:10", max_features=4096).estimate(clip.frames, clip.camera)
    assert int(path.valid.sum()) == 51
    score = score_clip(clip.actions, path)
    assert score.status == "scored"
    assert score.errors.mean(0).max() < 0.02


@pytest.mark.slow
def test_pycolmap_on_the_official_generated_clip():
    pytest.importorskip("pycolmap")
    from septet.datamodules.video.decode import read_image

    folder = shared_data("video/dojo_aif_sample/images")
    frames = torch.stack([torch.from_numpy(read_image(folder / f"{i}.jpg")) for i in range(30)])
    with np.load(golden("drivingdojo", "aif_sample.npz")) as file:
        commanded = torch.from_numpy(file["commanded"])
        camera = Camera("OPENCV_FISHEYE", tuple(file["intrinsics_opencv_fisheye"].tolist()), 576, 320)
    mask = torch.zeros(320, 576, dtype=torch.bool)
    mask[286:] = True
    path = PycolmapEstimator(max_features=4096).estimate(frames, camera, mask)
    score = score_clip(commanded, path)
    assert int(path.valid.sum()) == 30
    assert score.status == "scored"
    assert score.errors[:, 0].mean() < 0.12
    assert score.errors[:, 1].mean() < 0.08


def test_opencv_follows_roughly(street):
    pytest.importorskip("cv2")
    path = OpenCVEstimator().estimate(street.frames, street.camera)
    score = score_clip(DRIVE, path, "paper")
    assert path.valid.all()
    assert score.errors.mean(0).max() < 0.3
    still = OpenCVEstimator().estimate(street.frames[:1].expand(4, -1, -1, -1), street.camera)
    assert still.info["median_flow_px"] < 0.5


def test_a_pool_remembers_and_equals_one_process(tmp_path):
    clips = [StreetSimulator().clip(s) for s in range(3)]
    frames, cameras = [c.frames for c in clips], [c.camera for c in clips]
    estimator = InverseDynamicsEstimator()
    pool = EstimatorPool(estimator, workers=2, cache_dir=tmp_path)
    first = pool.estimate_many(frames, cameras)
    assert len(list(tmp_path.glob("trajectory-*.pt"))) == 3

    class Never:
        def estimate(self, *_):
            raise AssertionError("remembered clips must not run again")

    again = pool.estimate_many(frames, cameras)
    for clip, a, b in zip(clips, first, again, strict=True):
        want = estimator.estimate(clip.frames, clip.camera)
        torch.testing.assert_close(a.C, want.C)
        assert torch.equal(a.C, b.C)
        assert a.info == b.info
    with pytest.raises(AssertionError, match="remembered"):
        EstimatorPool(Never(), cache_dir=tmp_path).estimate(frames[0], cameras[0])


def test_bonnet_mask_finds_rows_that_stand_still():
    frames = torch.randint(0, 256, (10, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames[:, :, 34:] = 90
    mask = bonnet_mask(frames)
    assert mask[34:].all()
    assert not mask[:34].any()


def test_estimators_by_name(tmp_path):
    assert build_estimator("inverse_dynamics")[1] is True
    assert isinstance(build_estimator("pycolmap")[0], PycolmapEstimator)
    assert isinstance(build_estimator("opencv")[0], OpenCVEstimator)
    with pytest.raises(FileNotFoundError, match="fit configs"):
        build_estimator("nothing.pt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not an inverse-dynamics"):
        build_estimator(str(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: PycolmapEstimator("fast"), "unknown mapper"),
        (lambda f: PycolmapEstimator(matcher="sequential"), "unknown matcher"),
        (lambda f: PycolmapEstimator().estimate(f, None), "needs the camera"),
        (lambda f: PycolmapEstimator().estimate(f, 1, torch.zeros(3, 3)), "mask of shape"),
        (lambda f: OpenCVEstimator().estimate(f, None), "PINHOLE"),
        (lambda f: EstimatorPool(OpenCVEstimator(), -1), "workers=-1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))


def test_failed_trajectories_have_no_numbers():
    path = Trajectory.failed(4, reason="x")
    assert path.C.isnan().all()
    assert path.info["reason"] == "x"
