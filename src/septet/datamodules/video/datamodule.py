"""Driving clips as a LightningDataModule: simulated, DrivingDojo, comma2k19, KITTI or the user's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch import Tensor
from torch.utils.data import DataLoader

from septet.datamodules.resume import ResumableBatches, ResumableLoader
from septet.datamodules.video.clips import split_by_vehicle
from septet.datamodules.video.datasets import EpochBatches, Reader, RecordedClips, SimulatedClips, collate
from septet.datamodules.video.simulator import StreetSimulator
from septet.datamodules.video.tables import MOTION, read_table

SOURCES = ("simulator", "drivingdojo", "comma2k19", "kitti", "folder")
_FIRST_SEED = {"train": 0, "val": 400_000_000, "test": 800_000_000}


class VideoClips(pl.LightningDataModule):
    """Clips of driving video and the motion leaving each frame.

    Batches are dicts: ``frames`` uint8 ``(B, T, 3, H, W)``, ``actions`` float32 ``(B, T-1, 2)`` (forward, right)
    metres, ``yaw`` ``(B, T-1)`` (nan where unknown), ``clip_id`` and ``camera`` lists. They depend on (seed, epoch)
    only. ``fps`` is a list as well. Recorded sources are split by vehicle, the part of the id before the first
    underscore; the test clips are the validation clips. With one vehicle all parts hold the same clips, with a warning.

    Args:
        source: simulator, drivingdojo, comma2k19, kitti or folder.
        root: folder of a recorded source.
        clips: simulated training clips.
        val_clips: simulated validation clips.
        test_clips: simulated test clips.
        frames: per clip, after the stride.
        stride: source frames per step; motions are composed.
        size: (H, W) of the frames.
        batch_size: clips per batch.
        seed: of scenes, order, windows and the split.
        num_workers: of the training loader.
        cache_dir: keep rendered or resized frames there.
        simulator: further arguments of :class:`StreetSimulator`.
        fractions: shares of vehicles for training and validation; one vehicle each at least, where there are two.
        predict_image: start frame for ``septet predict``; default the test clips.
        predict_actions: CSV with the columns forward,right[,yaw] beside it.

    Raises:
        ValueError: unknown source, missing root, or numbers below 1.
    """

    def __init__(
        self,
        source: str = "simulator",
        root: str | None = None,
        *,
        clips: int = 3072,
        val_clips: int = 16,
        test_clips: int = 48,
        frames: int = 8,
        stride: int = 1,
        size: tuple[int, int] = (32, 64),
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
        simulator: dict[str, Any] | None = None,
        fractions: tuple[float, float] = (0.9, 0.1),
        predict_image: str | None = None,
        predict_actions: str | None = None,
    ) -> None:
        super().__init__()
        if source not in SOURCES:
            raise ValueError(f"unknown source {source!r}: choose {', '.join(SOURCES)}")
        if source != "simulator" and root is None:
            raise ValueError(f"source {source!r} needs a root folder")
        if (predict_image is None) != (predict_actions is None):
            raise ValueError("predict_image and predict_actions belong together: give both or neither")
        self.source, self.root, self.clips, self.val_clips, self.test_clips = source, root, clips, val_clips, test_clips
        self.frames, self.stride, self.size, self.batch_size = frames, stride, (size[0], size[1]), batch_size
        self.seed, self.num_workers = seed, num_workers
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.simulator_args, self.fractions = dict(simulator or {}), (fractions[0], fractions[1])
        self.predict_image, self.predict_actions = predict_image, predict_actions
        for name in ("clips", "val_clips", "test_clips", "stride", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1")
        if frames < 2:
            raise ValueError(f"frames={frames}: a clip with a motion has at least 2")
        self.split = "by seed" if source == "simulator" else "by vehicle; the test clips are the validation clips"
        self._parts: dict[str, SimulatedClips | RecordedClips] = {}

    def prepare_data(self) -> None:
        """Fail early when a folder or file is absent."""
        for path in (self.root, self.predict_image, self.predict_actions):
            if path is not None and not Path(path).exists():
                raise FileNotFoundError(f"no {path}: check the path, or set SEPTET_DATA")

    def setup(self, stage: str | None = None) -> None:
        """List the clips and split them; once."""
        if self._parts:
            return
        self.prepare_data()
        if self.source == "simulator":
            counts = {"train": self.clips, "val": self.val_clips, "test": self.test_clips}
            renderer = StreetSimulator(*self.size, **self.simulator_args)
            for part, count in counts.items():
                first = _FIRST_SEED[part] + self.seed * 1_000_000
                self._parts[part] = SimulatedClips(renderer, count, self.frames, first, self.cache_dir)
            return
        assert self.root is not None
        reader = open_reader(self.source, self.root)
        if reader.skipped:
            warnings.warn(f"{self.root}: left out: {'; '.join(reader.skipped[:8])}", UserWarning, stacklevel=2)
        for part, names in self._split(reader.clips).items():
            seed = self.seed if part == "train" else None
            self._parts[part] = RecordedClips(
                reader, names, self.frames, self.stride, self.size, seed=seed, cache_dir=self.cache_dir
            )

    def _split(self, clips: list[str]) -> dict[str, list[str]]:
        """Clips of train, val and test; one vehicle cannot be split, which is said and recorded."""
        split = split_by_vehicle(clips, self.fractions, self.seed)
        if len({c.split("_")[0] for c in clips}) == 1:
            self.split = "one vehicle: train, val and test hold the same clips"
            split = {"train": clips, "val": clips}
            text = (
                f"{self.root}: all {len(clips)} clips are of one vehicle ({clips[0].split('_')[0]!r}, the text before"
            )
            warnings.warn(
                f"{text} the first '_'): training, validation and test hold the same clips. Name the clips of "
                "different drives by different first words to split them", UserWarning, stacklevel=3,
            )  # fmt: skip
        return split | {"test": split["val"]}

    def part(self, name: str) -> SimulatedClips | RecordedClips:
        """The data set of ``train``, ``val`` or ``test``."""
        self.setup()
        return self._parts[name]

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Shuffled batches, windows drawn by (seed, epoch, index)."""
        dataset = self.part("train")
        batches = EpochBatches(len(dataset), self.batch_size, seed=self.seed)
        return ResumableLoader(
            dataset, batches, num_workers=self.num_workers, collate_fn=collate,
            persistent_workers=False, multiprocessing_context="spawn" if self.num_workers else None,
        )  # fmt: skip

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Validation clips in order."""
        return self._evaluation("val")

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Test clips in order."""
        return self._evaluation("test")

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """The start frame and motions given for prediction, or the test clips."""
        if self.predict_image is None or self.predict_actions is None:
            return DataLoader(self.part("test"), batch_size=self.batch_size, collate_fn=collate)
        batch = _prompt(Path(self.predict_image), Path(self.predict_actions), self.size)
        return DataLoader([batch], batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]

    def _evaluation(self, part: str) -> ResumableLoader:
        dataset = self.part(part)
        batches = ResumableBatches(len(dataset), self.batch_size, shuffle=False)
        return ResumableLoader(dataset, batches, collate_fn=collate)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the tensors of a batch; cameras and ids stay."""
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def record_dataset(self) -> dict[str, Any]:
        """Data set block of the run record."""
        block = {"name": self.source, "frames": self.frames, "stride": self.stride, "size": list(self.size)}
        if self.source == "simulator":
            block |= {"train_clips": self.clips, "test_clips": self.test_clips, "simulator": self.simulator_args}
        return block | {"split": self.split, "seed": self.seed}


def open_reader(source: str, root: str | Path) -> Reader:
    """The reader of a recorded source.

    Raises:
        ValueError: unknown source.
    """
    from septet.datamodules.video import readers

    kinds = {
        "drivingdojo": readers.DrivingDojoReader,
        "comma2k19": readers.Comma2k19Reader,
        "kitti": readers.KittiReader,
        "folder": readers.FolderReader,
    }
    if source not in kinds:
        raise ValueError(f"unknown source {source!r}: choose {', '.join(kinds)}")
    reader: Reader = kinds[source](root)
    return reader


def _prompt(image: Path, actions: Path, size: tuple[int, int]) -> dict[str, Any]:
    """A batch of one start frame and a list of motions."""
    from septet.datamodules.video.decode import read_image

    header, table = read_table(actions, MOTION)
    frame = torch.from_numpy(read_image(image, size)).unsqueeze(0)
    yaw = table[:, 2] if "yaw" in header else torch.full((len(table),), float("nan"))
    return {
        "frames": frame.unsqueeze(0), "actions": table[None, :, :2].float(), "yaw": yaw[None].float(),
        "clip_id": [f"{image.stem}-{actions.stem}"], "camera": [None],
    }  # fmt: skip


def _as_is(batch: Any) -> Any:
    return batch
