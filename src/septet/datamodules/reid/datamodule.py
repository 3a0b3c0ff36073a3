"""SYSU-MM01, RegDB and LLCM as a LightningDataModule of four augmented streams."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from septet.datamodules.reid.batches import EvaluationDataset, QuadrupleDataset, TaggedPairs
from septet.datamodules.reid.cache import CACHE_REMEDY, agw_arrays, cached_images, resized
from septet.datamodules.reid.checks import check_evaluation, check_readable, check_training
from septet.datamodules.reid.evaluation import (
    EvaluationSet,
    held_out,
    llcm_evaluation,
    regdb_evaluation,
    sysu_evaluation,
)
from septet.datamodules.reid.readers import DIRECTIONS, LLCM, SUFFIXES, SYSUMM01, Direction, RegDB, Sample
from septet.datamodules.reid.synthetic import check_generator, write_synthetic
from septet.datamodules.reid.transforms import QuadAugmentation, normalise
from septet.datamodules.resume import ResumableLoader, rank_and_world

NAMES = {"sysu": "sysu_mm01", "regdb": "regdb", "llcm": "llcm"}
GENERATED = "1"
"""Version of the generator's pictures, part of the folder's name."""


class ReIDQuadrupleStreams(pl.LightningDataModule):
    """Visible-infrared person re-identification in the data sets' native layouts.

    Training yields :class:`QuadBatch`; evaluation yields :class:`EvalBatch`, every image once.

    Args:
        root: the data set's folder; None = a generated set (``generator``), kept in the cache.
        dataset: ``sysu``, ``regdb`` or ``llcm``.
        image_size: height and width, multiples of 16.
        p: identities per batch and process, at least 2.
        k: images per identity and modality.
        workers: loader processes.
        seed: of order and augmentation.
        trial: RegDB's split, 1..10.
        mode: SYSU-MM01's reported gallery, ``all`` or ``indoor``.
        direction: ``infrared_to_visible`` or ``visible_to_infrared`` (RegDB, LLCM).
        shots: SYSU-MM01's images per identity and camera in the reported gallery.
        family: SYSU-MM01's galleries, ``seeded`` or ``permutation``.
        select_on: ``val`` (default; validation identities are left out of training) or ``test`` (all training
            identities, checkpoints chosen on the test set as the papers do; recorded).
        cache: folder of the resized images; default ``.septet`` in the data set's folder.
        sampler: ``epoch`` or ``official``.
        eval_batch: images per side and evaluation batch.
        every_setting: test also the other SYSU-MM01 settings {all, indoor} x {1, 10 shots}.
        strict: LLCM's same-camera exclusion.
        drop_unpaired: leave out identities that one modality lacks.
        balance_cameras: an identity's K images come from its cameras in turn (sampler ``epoch``).
        shared_crop: twins share crop and flip.
        exchange_first: channel exchange before Normalize.
        shuffle_infrared: permute the infrared identities of training: a control without matched modalities.
        shuffle_labels: deal the training labels out anew over each modality's images: a control without identities.
        generator: ``preset``, ``seed``, ``difficulty`` of a generated set.
        predict_query: folder of query images for ``predict``; default the test queries.
        predict_gallery: folder searched in ``predict``; default the test gallery.

    Raises:
        ValueError: unknown choices, an image size no multiple of 16. FileNotFoundError: files of the layout missing.
    """

    def __init__(
        self,
        root: str | None = None,
        dataset: Literal["sysu", "regdb", "llcm"] = "sysu",
        *,
        image_size: tuple[int, int] = (384, 192),
        p: int = 6,
        k: int = 4,
        workers: int = 4,
        seed: int = 0,
        trial: int = 1,
        mode: Literal["all", "indoor"] = "all",
        direction: Direction = "infrared_to_visible",
        shots: int = 1,
        family: Literal["seeded", "permutation"] = "seeded",
        select_on: Literal["val", "test"] = "val",
        cache: str | None = None,
        sampler: Literal["epoch", "official"] = "epoch",
        eval_batch: int = 64,
        every_setting: bool = True,
        strict: bool = False,
        drop_unpaired: bool = False,
        balance_cameras: bool = False,
        shared_crop: bool = False,
        exchange_first: bool = False,
        shuffle_infrared: bool = False,
        shuffle_labels: bool = False,
        generator: dict[str, Any] | None = None,
        predict_query: str | None = None,
        predict_gallery: str | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.image_size = dataset, (int(image_size[0]), int(image_size[1]))
        self.p, self.k, self.workers, self.seed, self.trial = p, k, workers, seed, trial
        self.mode, self.direction, self.shots, self.family = mode, direction, shots, family
        self.select_on, self.sampler, self.eval_batch = select_on, sampler, eval_batch
        self.every_setting, self.strict, self.drop_unpaired = every_setting, strict, drop_unpaired
        self.shuffle_infrared, self.shuffle_labels = shuffle_infrared, shuffle_labels
        self.balance_cameras = balance_cameras
        self.augment = QuadAugmentation(seed, shared_crop, exchange_first)
        self.generator: dict[str, Any] = {"preset": "tiny", "seed": 0, "difficulty": 1.0} | dict(generator or {})
        self.predict_query, self.predict_gallery = predict_query, predict_gallery
        self._check()
        self.generated = root is None
        self.root = Path(root) if root is not None else _generated_root(dataset, self.generator)
        self.cache = Path(cache) if cache else self.root / ".septet"
        self.evaluations: dict[str, EvaluationSet] = {}
        self._train: tuple[list[Sample], list[Sample]] | None = None

    def _check(self) -> None:
        """Raise ValueError for settings that can never work."""
        choices: dict[str, tuple[Any, ...]] = {
            "dataset": tuple(NAMES), "mode": ("all", "indoor"), "direction": DIRECTIONS, "select_on": ("val", "test"),
            "family": ("seeded", "permutation"), "sampler": ("epoch", "official"), "trial": tuple(range(1, 11)),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(map(str, allowed))}"
                )
        if any(side % 16 or side < 16 for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: both sides must be multiples of 16")
        if self.p < 2:
            raise ValueError(f"p={self.p} is below 2: the metric losses compare identities within a batch")
        for name, least in (("k", 1), ("shots", 1), ("eval_batch", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} is below {least}")
        if self.balance_cameras and self.sampler == "official":
            raise ValueError("balance_cameras needs sampler 'epoch': 'official' draws as published")
        check_generator(self.generator, "generator.")
        if (self.predict_query is None) != (self.predict_gallery is None):
            raise ValueError("give both predict_query and predict_gallery, or neither")

    # -- samples ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Generate the set if there is no root."""
        if self.generated and not self.root.is_dir():
            partial = self.root.with_name(f"{self.root.name}.{os.getpid()}.part")
            shutil.rmtree(partial, ignore_errors=True)
            write_synthetic(partial, self.dataset, **self.generator)
            try:
                partial.rename(self.root)
            except OSError:  # another process was faster
                shutil.rmtree(partial)

    def setup(self, stage: str) -> None:
        """List the files of the stage and check the trainer."""
        self._check_trainer()
        if stage in ("fit", "validate") and "val" not in self.evaluations:
            self._setup_training()
        if stage in ("test", "predict") and "test" not in self.evaluations:
            self.evaluations["test"] = self._test(self.every_setting)
            check_evaluation(self.root, "test", self.evaluations["test"])
        if stage == "predict":
            self._setup_search()
        elif self.cache.exists() and not self.cache.is_dir():
            raise ValueError(f"cache {self.cache} is a file: {CACHE_REMEDY}")

    def _setup_search(self) -> None:
        """Queries and gallery of a search; every image is decoded once before it starts."""
        search, root = self.evaluations["test"], self.root
        if self.predict_query is not None and self.predict_gallery is not None:
            sides = [_folder_samples(Path(p)) for p in (self.predict_query, self.predict_gallery)]
            search, root = EvaluationSet(sides[0], sides[1], "regdb", prefix="/"), Path("/")
        check_readable(root, [*search.query, *search.pool], max(1, self.workers))
        self.evaluations["predict"] = search

    def _check_trainer(self) -> None:
        """A partial gallery is no protocol, and Lightning's own sampler would split the batches wrongly."""
        trainer = self.trainer
        if trainer is None or getattr(trainer, "fast_dev_run", False):
            return
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "use_distributed_sampler=True would break the P x K batches: set trainer.use_distributed_sampler=false"
            )

    def check_limit(self, name: str, batches: int) -> None:
        """Refuse ``limit_{val,test}_batches`` below the number of batches."""
        limit = getattr(self.trainer, f"limit_{name}_batches", None) if self.trainer else None
        if limit is None or getattr(self.trainer, "fast_dev_run", False) or limit == 0:
            return
        if (isinstance(limit, float) and limit < 1.0) or (not isinstance(limit, float) and limit < batches):
            raise ValueError(
                f"limit_{name}_batches={limit} of {batches}: a partial gallery is no protocol; remove the limit "
                "or raise eval_batch"
            )

    def _test(self, every: bool) -> EvaluationSet:
        if self.dataset == "sysu":
            return sysu_evaluation(SYSUMM01(self.root), "test", self.mode, self.shots, self.family, every)
        if self.dataset == "regdb":
            return regdb_evaluation(RegDB(self.root, self.trial), self.direction)
        return llcm_evaluation(LLCM(self.root), self.direction, self.strict)

    def _setup_training(self) -> None:
        """Training samples and the evaluation by which checkpoints are chosen."""
        part = "trainval" if self.select_on == "test" else "train"
        if self.dataset == "sysu":
            sysu = SYSUMM01(self.root)
            self._train = sysu.train("visible", part), sysu.train("infrared", part)
            if self.select_on == "val":
                self.evaluations["val"] = sysu_evaluation(sysu, "val", self.mode, self.shots, "seeded", every=False)
        else:
            source: Any = RegDB(self.root, self.trial) if self.dataset == "regdb" else LLCM(self.root)
            sides = source.train("visible"), source.train("infrared")
            if self.select_on == "val":
                out = set(sorted({s.pid for s in sides[0]})[3::4])
                kept = [[s for s in side if s.pid in out] for side in sides]
                protocol = "llcm_strict" if self.strict else self.dataset
                self.evaluations["val"] = held_out(kept[0], kept[1], self.direction, protocol)
                sides = ([s for s in sides[0] if s.pid not in out], [s for s in sides[1] if s.pid not in out])
            self._train = sides
        check_training(self.root, self._train, self.drop_unpaired)
        if self.select_on == "test":
            self.evaluations["val"] = self._test(every=False)
        check_evaluation(self.root, "val", self.evaluations["val"])

    @property
    def train_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Visible and infrared training images."""
        if self._train is None:
            self._setup_training()
        assert self._train is not None
        return self._train

    @property
    def num_classes(self) -> int:
        """Number of training identities."""
        return len({s.pid for s in self.train_samples[0]} | {s.pid for s in self.train_samples[1]})

    def _tables(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[Any]]]:
        """Images and labels 0..C-1 of both modalities."""
        samples = self.train_samples
        ids = sorted({s.pid for side in samples for s in side})
        images, labels = [], []
        for side, modality in zip(samples, ("visible", "infrared"), strict=True):
            ready = agw_arrays(self.root, modality, self.image_size) if self.select_on == "test" else None
            if ready is None:
                name = f"train_{modality}"
                images.append(self._cached(side, name))
                labels.append(np.searchsorted(ids, [s.pid for s in side]))
            else:
                images.append(ready[0])
                labels.append(ready[1])
        if self.shuffle_infrared:
            labels[1] = np.random.default_rng(self.seed).permutation(len(ids))[labels[1]]
        if self.shuffle_labels:
            labels = [np.random.default_rng([self.seed, i]).permutation(side) for i, side in enumerate(labels)]
        return images, labels

    def _cameras(self, images: list[NDArray[np.uint8]]) -> tuple[list[int], list[int]] | None:
        """Cameras of both modalities' images, if they are to be balanced."""
        if not self.balance_cameras:
            return None
        visible, infrared = ([s.cam for s in side] for side in self.train_samples)
        if [len(visible), len(infrared)] != [len(table) for table in images]:
            raise ValueError(f"the arrays in {self.root} say no cameras: remove them or set balance_cameras=false")
        return visible, infrared

    def images(self, samples: list[Sample]) -> Tensor:
        """Resized and normalised images ``(N, 3, H, W)`` of the data set."""
        return normalise(np.stack([resized(self.root / s.path, self.image_size) for s in samples]))

    def _cached(self, samples: list[Sample], name: str) -> NDArray[np.uint8]:
        return cached_images(self.root, samples, self.image_size, self.cache, name, workers=max(1, self.workers))

    # -- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Batches of P*K quadruples."""
        images, labels = self._tables()
        rank, world = rank_and_world()
        pairs = TaggedPairs(
            labels[0], labels[1], p=self.p, k=self.k, mode=self.sampler, seed=self.seed, rank=rank, world_size=world,
            drop_unpaired=self.drop_unpaired, cameras=self._cameras(images),
        )  # fmt: skip
        dataset = QuadrupleDataset(images[0], images[1], labels[0], self.augment)
        return ResumableLoader(dataset, pairs, num_workers=self.workers, collate_fn=_same)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """The evaluation by which checkpoints are chosen."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """The test images."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Queries to search for, with the gallery they are searched in."""
        if "predict" not in self.evaluations:
            self._setup_search()
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, part: str) -> DataLoader[Any]:
        evaluation = self.evaluations[part]
        tables = None
        if part != "predict":
            sides = {"query": evaluation.query, "gallery": evaluation.pool}
            query, gallery = (self._cached(samples, f"{part}_{name}") for name, samples in sides.items())
            tables = query, gallery
        root = Path("/") if part == "predict" and self.predict_query else self.root
        dataset = EvaluationDataset(evaluation, self.eval_batch, self.image_size, tables, root)
        self.check_limit(part, len(dataset))
        rank, world = rank_and_world()
        numbers = list(range(len(dataset)))
        numbers += numbers[: -len(numbers) % world] if world > 1 else []
        return DataLoader(dataset, batch_size=None, sampler=numbers[rank::world], num_workers=min(self.workers, 4))

    # -- record -----------------------------------------------------------------------------------------------------

    @property
    def query_modality(self) -> Literal["visible", "infrared"]:
        """Modality of the queries."""
        return "visible" if self.dataset != "sysu" and self.direction == "visible_to_infrared" else "infrared"

    def identity(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data: a RegDB model of one trial must not be tested on another."""
        return {"dataset": self.dataset, "trial": self.trial if self.dataset == "regdb" else 0}

    def record_dataset(self) -> str:
        """Name of the data set."""
        if self.generated:
            return f"synthetic-{self.dataset}-{self.generator['preset']}"
        return NAMES[self.dataset]

    def record_scenario(self) -> dict[str, Any]:
        """Task and direction."""
        direction = "visible_to_infrared" if self.query_modality == "visible" else "infrared_to_visible"
        return {"task": "visible_infrared_reid", "modality": "image", "horizon": direction}


def _same(batch: Any) -> Any:
    return batch


def _generated_root(dataset: str, generator: dict[str, Any]) -> Path:
    """Where a generated set lives: the user's cache."""
    base = Path(os.environ.get("SEPTET_CACHE") or Path.home() / ".cache/septet") / "reid"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache folder {base} cannot be made ({error.strerror}): set SEPTET_CACHE or root"
        ) from error
    name = f"{dataset}-{generator['preset']}-{generator['seed']}-{generator['difficulty']:g}-v{GENERATED}"
    return base / name


def _folder_samples(folder: Path) -> list[Sample]:
    """All images below a folder, identity unknown (-1)."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; expected a folder of images ({', '.join(SUFFIXES)})")
    base = folder.resolve()
    files = sorted(p for p in base.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return [Sample(p.relative_to("/").as_posix(), -1, 0, "") for p in files]
