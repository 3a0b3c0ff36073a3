"""Geometric estimators on small and on real video, the pool, the mask and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.paths import golden, shared_data

from septet.datamodules.video import Camera, StreetSimulator
from septet.datamodules.video.readers import KittiReader
from septet.lightning_modules.drivingdojo.bonnet import rows_below
from septet.lightning_modules.drivingdojo.estimators import build_estimator
from septet.lightning_modules.drivingdojo.metrics import score_clip
from septet.lightning_modules.drivingdojo.pool import mask_list
from septet.lightning_modules.drivingdojo.trajectory import (
    EstimatorPool,
    InverseDynamicsEstimator,
    OpenCVEstimator,
    OracleEstimator,
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
    mask = bonnet_mask(frames)
    assert mask[286:].all()
    assert not mask[:280].any()
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


def test_a_damaged_file_and_a_timeout_run_again(tmp_path):
    clip = StreetSimulator().clip(0)
    pool = EstimatorPool(InverseDynamicsEstimator(), cache_dir=tmp_path)
    want = pool.estimate(clip.frames, clip.camera)
    (file,) = tmp_path.glob("trajectory-*.pt")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(pool.estimate(clip.frames, clip.camera).C, want.C)
    assert pool.runs == 2

    class Late:
        def estimate(self, frames, camera, mask=None):
            return Trajectory.failed(len(frames), reason="timeout")

    late = EstimatorPool(Late(), cache_dir=tmp_path / "late")
    for runs in (1, 2):
        assert late.estimate(clip.frames, clip.camera).info["reason"] == "timeout"
        assert late.runs == runs
    assert not list(tmp_path.glob("late/*"))


def test_bonnet_mask_finds_rows_that_stand_still():
    frames = torch.randint(0, 256, (10, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames[:, :, 34:] = 90
    mask = bonnet_mask(frames)
    assert mask[34:].all()
    assert not mask[:34].any()


def _mirroring(rows=120, columns=200, rim=100, frames=12):
    """A moving world above a bonnet that mirrors it: both change as much, only the rim stands still."""
    generator = torch.Generator().manual_seed(0)
    world = torch.randint(0, 60, (frames, 3, rows, columns), generator=generator)
    world[:, :, rim:] += 150
    return world.to(torch.uint8)


def test_bonnet_mask_finds_the_rim_of_a_mirroring_bonnet():
    mask = bonnet_mask(_mirroring())
    first = int(mask.any(1).nonzero()[0])
    assert 92 <= first <= 100
    assert mask[first:].all()
    narrow = _mirroring()
    narrow[..., 40:] = torch.randint(0, 60, narrow[..., 40:].shape, generator=torch.Generator().manual_seed(1)).byte()
    assert not bonnet_mask(narrow).any()


@pytest.mark.parametrize("bend", [0.0, 0.02])
def test_a_street_has_no_bonnet(bend):
    clip = StreetSimulator(128, 224).clip(1, actions=torch.tensor([[0.9, bend]]).repeat(8, 1))
    assert not bonnet_mask(clip.frames).any()
    assert not bonnet_mask(clip.frames[:1].expand(6, -1, -1, -1)).any()


def test_bonnet_of_the_official_clip():
    from septet.datamodules.video.decode import read_image

    folder = shared_data("video/dojo_aif_sample/images")
    frames = torch.stack([torch.from_numpy(read_image(folder / f"{i}.jpg")) for i in range(0, 30, 2)])
    assert 280 <= int(bonnet_mask(frames).any(1).nonzero()[0]) <= 287


def test_no_bonnet_on_kitti():
    reader = KittiReader(shared_data("video/kitti_odo_a"))
    clip = reader.read(reader.clips[0], frames=15, size=(185, 613))
    assert not bonnet_mask(clip.frames).any()


def test_a_row_below_which_all_is_ignored():
    mask = rows_below(30, 40, 20)
    assert mask.shape == (40, 20)
    assert mask[30:].all()
    assert not mask[:30].any()
    with pytest.raises(ValueError, match="bonnet=40 is not a row"):
        rows_below(40, 40, 20)


def test_masks_one_per_clip():
    masks = [torch.zeros(4, 4).bool(), None]
    assert mask_list(masks, 2) == masks
    assert mask_list(masks[0], 2) == [masks[0]] * 2
    with pytest.raises(ValueError, match="2 masks beside 3 clips"):
        mask_list(masks, 3)


def test_a_pool_tells_estimators_and_masks_apart():
    clip = StreetSimulator().clip(0)
    pool = EstimatorPool(InverseDynamicsEstimator())
    before = pool._key(clip.frames, clip.camera, None)
    assert pool._key(clip.frames, clip.camera, torch.zeros(32, 64).bool()) != before
    pool.estimator.sha256 = "another file"
    assert pool._key(clip.frames, clip.camera, None) != before
    one = OracleEstimator(clip.R, clip.C)
    assert EstimatorPool(one)._key(clip.frames, None, None) != EstimatorPool(OracleEstimator(clip.R, clip.C + 1))._key(
        clip.frames, None, None
    )
    pool.estimate_many([clip.frames] * 3, [clip.camera] * 3)
    assert pool.runs == 1


def test_a_clip_that_takes_too_long_fails():
    pytest.importorskip("pycolmap")
    clip = StreetSimulator(32, 64).clip(0, 2)
    path = PycolmapEstimator(timeout=0.01).estimate(clip.frames, clip.camera)
    assert path.info["reason"] == "timeout"
    assert score_clip(DRIVE[:1], path).status == "failed"


def test_estimators_by_name(tmp_path):
    assert build_estimator("inverse_dynamics")[1] is True
    assert isinstance(build_estimator("pycolmap")[0], PycolmapEstimator)
    assert isinstance(build_estimator("opencv")[0], OpenCVEstimator)
    assert build_estimator("pycolmap", {"matcher": "sequential:5"})[0].matcher == "sequential:5"
    with pytest.raises(ValueError, match="does not take overlap"):
        build_estimator("pycolmap", {"overlap": 5})
    with pytest.raises(FileNotFoundError, match="'colmapp' for aif: choose none, inverse_dynamics, pycolmap, opencv"):
        build_estimator("colmapp")
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
