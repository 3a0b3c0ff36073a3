"""Geometric estimators of camera paths."""

from __future__ import annotations

import inspect
import multiprocessing
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from septet.lightning_modules.drivingdojo.inverse import InverseDynamicsEstimator
from septet.lightning_modules.drivingdojo.poses import Trajectory

_MISSING = "{} needs the video extra: pip install 'septet[video]'"


class PycolmapEstimator:
    """Structure from motion by pycolmap with known intrinsics; scale is free.

    One thread and a seed give bit-identical results.

    Args:
        mapper: ``global`` (GLOMAP) or ``incremental``.
        matcher: ``exhaustive`` or ``sequential:10`` (overlap).
        max_features: SIFT features per frame.
        threads: more are faster and not repeatable.
        seed: of the random steps.
        timeout: seconds after which a clip counts as failed; runs in a process of its own. None: no limit.

    Raises:
        ValueError: unknown mapper or matcher.
    """

    cameras: ClassVar[tuple[str, ...]] = ("PINHOLE", "OPENCV_FISHEYE")

    def __init__(
        self, mapper: str = "global", matcher: str = "exhaustive", max_features: int = 8192, threads: int = 1,
        seed: int = 0, timeout: float | None = None,
    ) -> None:  # fmt: skip
        if mapper not in ("global", "incremental"):
            raise ValueError(f"unknown mapper {mapper!r}: choose 'global' or 'incremental'")
        kind, _, overlap = matcher.partition(":")
        if kind not in ("exhaustive", "sequential") or (kind == "sequential" and not overlap.isdigit()):
            raise ValueError(f"unknown matcher {matcher!r}: choose 'exhaustive' or such as 'sequential:10'")
        self.mapper, self.matcher, self.max_features = mapper, matcher, max_features
        self.threads, self.seed, self.timeout = threads, seed, timeout

    def estimate(self, frames: Tensor, camera: Any, mask: Tensor | None = None) -> Trajectory:
        """Path of ``(T, 3, H, W)`` uint8 frames; frames that do not register are not valid.

        Args:
            frames: of one clip.
            camera: with ``model`` and ``params`` (COLMAP's convention).
            mask: True = ignore, ``(H, W)`` or ``(T, H, W)``.

        Raises:
            ValueError: no camera, or a mask of another size.
            ImportError: without pycolmap.
        """
        if camera is None:
            raise ValueError("structure from motion needs the camera: model and params")
        if mask is not None and tuple(mask.shape[-2:]) != tuple(frames.shape[-2:]):
            raise ValueError(f"mask of shape {tuple(mask.shape)} beside frames of {tuple(frames.shape[-2:])}")
        if self.timeout is None:
            return self._run(frames, camera, mask)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=_in_process, args=(self, queue, frames.numpy(), camera, mask))
        process.start()
        try:
            answer = queue.get(timeout=self.timeout)
        except Exception:
            answer = None
        process.terminate()
        process.join()
        if answer is None:
            return Trajectory.failed(len(frames), reason="timeout")
        R, C, valid = (torch.from_numpy(a) for a in answer[:3])
        return Trajectory(R, C, valid, answer[3])

    def _run(self, frames: Tensor, camera: Any, mask: Tensor | None) -> Trajectory:
        """Extract, match and map in a temporary folder."""
        try:
            import pycolmap
        except ImportError as error:
            raise ImportError(_MISSING.format("pycolmap")) from error
        pycolmap.logging.minloglevel = 3
        pycolmap.set_random_seed(self.seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_images(folder, frames, mask)
            try:
                self._extract(pycolmap, folder, camera, mask is not None)
                self._match(pycolmap, folder)
                models = self._map(pycolmap, folder)
            except (RuntimeError, ValueError) as error:
                return Trajectory.failed(len(frames), reason=str(error).splitlines()[0][:200])
        if not models:
            return Trajectory.failed(len(frames), reason="no model")
        return _trajectory(max(models.values(), key=lambda m: int(m.num_reg_images())), len(frames))

    def _extract(self, pycolmap: Any, folder: Path, camera: Any, masked: bool) -> None:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = camera.model
        reader.camera_params = ",".join(f"{p:.12g}" for p in camera.params)
        if masked:
            reader.mask_path = str(folder / "masks")
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.num_threads = self.threads
        extraction.use_gpu = False
        extraction.sift.max_num_features = self.max_features
        pycolmap.extract_features(
            folder / "database.db", folder / "images", camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader,
            extraction_options=extraction, device=pycolmap.Device.cpu,
        )  # fmt: skip

    def _match(self, pycolmap: Any, folder: Path) -> None:
        options = pycolmap.FeatureMatchingOptions()
        options.use_gpu = False
        options.num_threads = self.threads
        kind, _, overlap = self.matcher.partition(":")
        given = {"matching_options": options, "device": pycolmap.Device.cpu}
        if kind == "exhaustive":
            pycolmap.match_exhaustive(folder / "database.db", **given)
            return
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap = int(overlap)
        pycolmap.match_sequential(folder / "database.db", pairing_options=pairing, **given)

    def _map(self, pycolmap: Any, folder: Path) -> Any:
        """Reconstructions by number; intrinsics stay as given."""
        (folder / "out").mkdir()
        where = (folder / "database.db", folder / "images", folder / "out")
        if self.mapper == "global":
            options = pycolmap.GlobalPipelineOptions()
            options.num_threads, options.random_seed = self.threads, self.seed
            adjustment = options.mapper.bundle_adjustment
            adjustment.refine_focal_length = adjustment.refine_extra_params = False
            options.mapper.global_positioning.use_gpu = adjustment.ceres.use_gpu = False
            return pycolmap.global_mapping(*where, options)
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed, options.min_num_matches = self.threads, self.seed, 5
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.ba_local_num_images, options.mapper.init_max_forward_motion = 15, 1.0
        return pycolmap.incremental_mapping(*where, options)


def _in_process(estimator: PycolmapEstimator, queue: Any, frames: np.ndarray, camera: Any, mask: Tensor | None) -> None:
    """Run one clip in a process of its own and send plain arrays back."""
    t = estimator._run(torch.from_numpy(frames), camera, mask)
    queue.put((t.R.numpy(), t.C.numpy(), t.valid.numpy(), t.info))


def _write_images(folder: Path, frames: Tensor, mask: Tensor | None) -> None:
    """Frames as ``images/000000.png``, masks (0 = ignore) as ``masks/000000.png.png``."""
    from PIL import Image

    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number, frame in enumerate(frames.numpy()):
        name = f"{number:06d}.png"
        Image.fromarray(frame.transpose(1, 2, 0)).save(folder / "images" / name, compress_level=1)
        if mask is not None:
            hidden = (mask if mask.ndim == 2 else mask[number]).numpy()
            Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)).save(folder / "masks" / f"{name}.png")


def _trajectory(model: Any, frames: int) -> Trajectory:
    """Poses camera -> world of a reconstruction: ``C = -R^T t``."""
    result = Trajectory.failed(frames)
    depths = []
    points = {k: p.xyz for k, p in model.points3D.items()}
    for image in model.images.values():
        if not image.has_pose:
            continue
        number = int(image.name.split(".")[0])
        pose = image.cam_from_world()
        rotation = np.asarray(pose.rotation.matrix())
        result.R[number] = torch.from_numpy(rotation.T.copy())
        result.C[number] = torch.from_numpy(-rotation.T @ np.asarray(pose.translation))
        result.valid[number] = True
        seen = [points[p.point3D_id] for p in image.get_observation_points2D()]
        if seen:
            depths.append(np.median(np.stack(seen) @ rotation[2] + pose.translation[2]))
    result.info = {"reprojection_error_px": float(model.compute_mean_reprojection_error()), "points": len(points)}
    if depths:
        result.info["median_depth"] = float(np.median(depths))
    return result


class OpenCVEstimator:
    """Two-view odometry: SIFT matches, essential matrix, unit steps; a quick geometric check, far below SfM.

    Every step has the length 1 times the ratio of mean flows, so speed is only roughly right.

    Args:
        max_features: per frame.
    """

    cameras: ClassVar[tuple[str, ...]] = ("PINHOLE",)

    def __init__(self, max_features: int = 2000) -> None:
        self.max_features = max_features

    def estimate(self, frames: Tensor, camera: Any, mask: Tensor | None = None) -> Trajectory:
        """Path of ``(T, 3, H, W)`` uint8 frames of a pinhole camera; it ends where a pair has too few matches.

        Raises:
            ValueError: without a pinhole camera; ImportError without OpenCV.
        """
        if camera is None or camera.model != "PINHOLE":
            raise ValueError("the OpenCV estimator needs a PINHOLE camera")
        try:
            import cv2 as library
        except ImportError as error:
            raise ImportError(_MISSING.format("OpenCV")) from error
        cv2: Any = library
        cv2.setRNGSeed(0)
        fx, fy, cx, cy = camera.params
        intrinsics = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])
        sift = cv2.SIFT_create(self.max_features)
        grey = [cv2.cvtColor(np.ascontiguousarray(f.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY) for f in frames.numpy()]
        masks = [_mask_of(mask, n) for n in range(len(grey))]
        found = [sift.detectAndCompute(g, m) for g, m in zip(grey, masks, strict=True)]
        result = Trajectory.failed(len(frames))
        rotation, centre = np.eye(3), np.zeros(3)
        flows = []
        for number in range(len(frames)):
            if number:
                step = _two_view(cv2, found[number - 1], found[number], intrinsics)
                if step is None:
                    break
                turn, direction, flow = step
                flows.append(flow)
                centre = centre + rotation @ (-turn.T @ direction) * (flow / max(flows[0], 1e-6))
                rotation = rotation @ turn.T
            result.R[number], result.C[number] = torch.from_numpy(rotation.copy()), torch.from_numpy(centre.copy())
            result.valid[number] = True
        result.info = {"median_flow_px": float(np.median(flows))} if flows else {}
        return result


def _mask_of(mask: Tensor | None, number: int) -> np.ndarray | None:
    """OpenCV's mask (255 = use) of a frame."""
    if mask is None:
        return None
    return np.where((mask if mask.ndim == 2 else mask[number]).numpy(), 0, 255).astype(np.uint8)


def _two_view(cv2: Any, a: Any, b: Any, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Rotation and unit translation from camera a to b, and the median flow in pixels; None with too few matches."""
    if a[1] is None or b[1] is None or min(len(a[0]), len(b[0])) < 8:
        return None
    pairs = cv2.BFMatcher().knnMatch(a[1], b[1], k=2)
    good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < 0.8 * p[1].distance]
    if len(good) < 8:
        return None
    left = np.array([a[0][m.queryIdx].pt for m in good], np.float64)
    right = np.array([b[0][m.trainIdx].pt for m in good], np.float64)
    flow = float(np.median(np.linalg.norm(right - left, axis=1)))
    if flow < 0.3:
        return np.eye(3), np.zeros(3), flow
    essential, inliers = cv2.findEssentialMat(left, right, intrinsics, method=cv2.RANSAC, prob=0.999, threshold=1.0)
    if essential is None or essential.shape != (3, 3):
        return None
    _, turn, direction, _ = cv2.recoverPose(essential, left, right, intrinsics, mask=inliers)
    return turn, direction[:, 0], flow


def build_estimator(name: str, options: Mapping[str, Any] | None = None) -> tuple[Any, bool]:
    """The estimator of a name or of a checkpoint, and whether its paths are in metres.

    Args:
        name: ``inverse_dynamics``, ``pycolmap``, ``opencv`` or a file of an inverse-dynamics net.
        options: arguments of the estimator's constructor.

    Raises:
        FileNotFoundError: for a name that is neither an estimator nor a file.
        ValueError: for options the estimator does not take.
    """
    given = dict(options or {})
    kinds: dict[str, tuple[Any, bool]] = {
        "inverse_dynamics": (InverseDynamicsEstimator, True),
        "pycolmap": (PycolmapEstimator, False),
        "opencv": (OpenCVEstimator, False),
    }
    if name not in kinds:
        if not Path(name).is_file():
            known = f"none, {', '.join(kinds)}, or a file of an inverse-dynamics net"
            raise FileNotFoundError(f"no estimator and no file {name!r} for aif: choose {known}")
        given, kinds[name] = {"checkpoint": name} | given, (InverseDynamicsEstimator, True)
    kind, metric = kinds[name]
    options_known = list(inspect.signature(kind).parameters)
    if unknown := sorted(set(given) - set(options_known)):
        raise ValueError(f"estimator {name!r} does not take {', '.join(unknown)}: choose {', '.join(options_known)}")
    return kind(**given), metric
