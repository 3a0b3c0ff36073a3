"""COCO-format detection data for Lightning, through mmdet's transforms."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from septet.datamodules.coco.batches import AspectRatioBatches
from septet.datamodules.coco.dataset import DetectionDataset, coco_records, collate, default_pipeline
from septet.datamodules.coco.synthetic import generate_shapes
from septet.datamodules.coco.validation import (
    image_problems,
    picture_problems,
    read_coco,
    refuse_fatal,
    validate_coco,
)
from septet.datamodules.resume import ResumableLoader

HEADER_LIMIT = 20_000
"""Splits with more images are not opened before training; `septet data verify coco --json --images` opens all."""
_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class COCODetection(LightningDataModule):
    """Train, validation and test images of a COCO-format data set, or generated shapes.

    Args:
        root: folder of the data set; None with ``synthetic``.
        train_json: annotation file, relative to root.
        val_json: the same for validation.
        train_images: image folder, relative to root.
        val_images: the same for validation.
        test_json: annotation file for ``test``; validation data where not given.
        test_images: image folder for ``test``.
        classes: names to detect, in label order; all of the file's, in its order, where not given.
        image_scale: (long side, short side) limits of the resize in pixels, aspect ratio kept.
        batch_size: images per batch and process.
        flip: probability of a horizontal flip in training.
        limit_images: use only the first so many images of each split.
        seed: of order, augmentation and generated pictures.
        num_workers: loader processes.
        drop_last: drop the short last training batch.
        min_size: training images with a shorter side below are left out.
        skip_missing: leave out listed images that are not on disk instead of refusing.
        synthetic: generate so many images for each split in a temporary folder and use them.
        train_pipeline: mmdet transforms in place of the default ones.
        predict_images: folder of pictures for ``predict``.

    Raises:
        ValueError: in ``setup``, for annotation files with fatal problems, without a usable image to train on or
            without a box to score against.
    """

    def __init__(
        self,
        root: str | None = None,
        train_json: str = "annotations/instances_train2017.json",
        val_json: str = "annotations/instances_val2017.json",
        *,
        train_images: str = "train2017",
        val_images: str = "val2017",
        test_json: str | None = None,
        test_images: str | None = None,
        classes: Sequence[str] | None = None,
        image_scale: tuple[int, int] = (1333, 800),
        batch_size: int = 2,
        flip: float = 0.5,
        limit_images: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
        min_size: int = 32,
        skip_missing: bool = False,
        synthetic: int = 0,
        train_pipeline: Sequence[Mapping[str, Any]] | None = None,
        predict_images: str | None = None,
    ) -> None:
        super().__init__()
        self._check_options(root, synthetic, batch_size, flip, image_scale)
        self.folder = Path(root) if root is not None else Path()
        self.files = {"train": (train_json, train_images), "val": (val_json, val_images)}
        self.files["test"] = (test_json, test_images or val_images) if test_json else self.files["val"]
        self.wanted_classes = list(classes) if classes else None
        self.image_scale, self.batch_size, self.flip = (int(image_scale[0]), int(image_scale[1])), batch_size, flip
        self.limit_images, self.seed, self.num_workers = limit_images, seed, num_workers
        self.drop_last, self.min_size, self.skip_missing, self.synthetic = drop_last, min_size, skip_missing, synthetic
        self.custom_pipeline = [dict(step) for step in train_pipeline] if train_pipeline else None
        self.predict_images = predict_images
        self.classes: list[str] = []
        self.category_ids: list[int] = []
        self.truth: dict[str, dict[str, Any]] = {}
        self.datasets: dict[str, DetectionDataset] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @staticmethod
    def _check_options(root: str | None, synthetic: int, batch_size: int, flip: float, scale: Sequence[int]) -> None:
        if root is None and not synthetic:
            raise ValueError("no data: give root (a folder with COCO annotations) or synthetic: 32 (generated)")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability, got {flip}")
        if len(scale) != 2 or min(scale) < 1:
            raise ValueError(f"image_scale must be two positive numbers of pixels, got {scale}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def _generate(self) -> None:
        """Generated splits lie in a temporary folder of this process and are equal for equal seeds."""
        self._temporary = tempfile.TemporaryDirectory(prefix="septet-shapes-")
        self.folder = Path(self._temporary.name)
        for number, split in enumerate(("train", "val")):
            generate_shapes(self.folder / split, images=self.synthetic, seed=2 * self.seed + number)
            self.files[split] = (f"{split}/annotations.json", f"{split}/images")
        self.files["test"] = self.files["val"]

    def _read(self, split: str) -> dict[str, Any]:
        name, images = self.files[split]
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"no annotation file {path}; check root and {split}_json, or see `septet data prepare coco --help`"
            )
        data = read_coco(path)
        missing_ok = self.skip_missing
        refuse_fatal(
            validate_coco(data, classes=self.wanted_classes, image_dir=None if missing_ok else self.folder / images),
            str(path),
        )
        data = self._restrict(data, self.folder / images)
        if len(data["images"]) <= HEADER_LIMIT:
            refuse_fatal(image_problems(data, self.folder / images), str(path))
        return data

    def _restrict(self, data: dict[str, Any], images: Path) -> dict[str, Any]:
        """Only images on disk (with ``skip_missing``), at most ``limit_images``, and their annotations."""
        kept = sorted(data["images"], key=lambda x: x["id"])
        if self.skip_missing:
            kept = [x for x in kept if (images / x["file_name"]).is_file()]
        kept = kept[: self.limit_images]
        ids = {x["id"] for x in kept}
        return {**data, "images": kept, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}

    def _labels(self, split: str, data: Mapping[str, Any]) -> dict[int, int]:
        """Label of each category id; all splits must give a name the same id."""
        ids = {record["name"]: record["id"] for record in data["categories"]}
        classes = self.wanted_classes or list(ids)
        category_ids = [ids.get(name, -1) for name in classes]
        if self.category_ids and (classes, category_ids) != (self.classes, self.category_ids):
            raise ValueError(
                f"category mismatch: {self.files[split][0]} has {ids}, other splits map {self.classes} to "
                f"{self.category_ids}; use the same categories in every file"
            )
        self.classes, self.category_ids = classes, category_ids
        return {identity: label for label, identity in enumerate(category_ids)}

    def _load(self, split: str, pipeline: list[dict[str, Any]], *, scored: bool = True) -> None:
        if split in self.datasets:
            return
        data = self._read(split)
        records = coco_records(data, self.folder / self.files[split][1], self._labels(split, data))
        if split == "train":
            usable = [x for x in records if x["annotated"] and min(x["width"], x["height"]) >= self.min_size]
            if not any(x["instances"] for x in usable):
                raise ValueError(
                    f"{self.files[split][0]}: no training image with a usable box of {self.classes} among "
                    f"{len(records)} images; the annotations are empty or of other classes"
                )
            records = usable
        elif scored and not any(a["category_id"] in self.category_ids for a in data["annotations"]):
            raise ValueError(
                f"{self.files[split][0]}: no box of {self.classes} among {len(records)} images: there is nothing to "
                "score detections against; use septet predict for images without annotations"
            )
        self.truth[split] = data
        self.datasets[split] = DetectionDataset(records, pipeline, self.seed)

    def setup(self, stage: str) -> None:
        """Read, check and filter the annotation files that the stage needs."""
        if self.synthetic and self._temporary is None:
            self._generate()
        if stage == "fit":
            self._load("train", self.custom_pipeline or default_pipeline(self.image_scale, self.flip))
        if stage == "predict" and self.predict_images is not None:
            self._name_classes()
            refuse_fatal(picture_problems(self._picture_paths()), self.predict_images)
        elif stage in ("fit", "validate", "predict"):
            self._load("val", default_pipeline(self.image_scale, 0.0), scored=stage != "predict")
        if stage == "test":
            self._load("test", default_pipeline(self.image_scale, 0.0))

    def _name_classes(self) -> None:
        """Classes for pictures of one's own: of the validation file where it is at hand, else ``classes`` from id 1."""
        path = self.folder / self.files["val"][0]
        if path.is_file():
            data = read_coco(path)
            missing = [p for p in validate_coco(data, classes=self.wanted_classes) if p.code == "class-missing"]
            refuse_fatal(missing, str(path))
            self._labels("val", data)
        elif self.wanted_classes:
            self.classes, self.category_ids = self.wanted_classes, list(range(1, len(self.wanted_classes) + 1))
        else:
            raise FileNotFoundError(f"no annotation file {path} to name the classes; give data.init_args.classes")

    # -- what the task asks for -------------------------------------------------------------------------------------

    def ground_truth(self, split: str) -> dict[str, Any]:
        """COCO dictionary of a split, restricted to the categories in use."""
        data = self.truth[split]
        wanted = set(self.category_ids)
        return {
            "images": data["images"],
            "annotations": [a for a in data["annotations"] if a["category_id"] in wanted],
            "categories": [c for c in data["categories"] if c["id"] in wanted],
        }

    def describe(self, split: str) -> str:
        """One line: how many images of which file a split has, and whether it is only the validation set again."""
        again = split == "test" and self.files["test"] == self.files["val"]
        note = " (no test_json given: the validation images again)" if again else ""
        return f"{len(self.datasets[split])} of {self.files[split][0]}{note}"

    def batch(self, split: str, indices: Sequence[int]) -> dict[str, list[Any]]:
        """A fresh batch of chosen images, augmentation of epoch 0 (mmdet changes batches in place)."""
        return collate([self.datasets[split][i] for i in indices])

    def fixed_geometry(self) -> bool:
        """Whether an image always enters the networks alike but for a flip (what a feature cache needs)."""
        return self.custom_pipeline is None

    def transform_hash(self) -> str:
        """Identity of the training transforms."""
        steps = self.custom_pipeline or default_pipeline(self.image_scale, self.flip)
        return hashlib.sha256(json.dumps(steps, default=str).encode()).hexdigest()[:16]

    def train_image_ids(self) -> list[int]:
        """Image ids of the training set."""
        return [int(x["img_id"]) for x in self.datasets["train"].records]

    def record_dataset(self) -> dict[str, Any]:
        """Data-set block of the run record."""
        name = "generated_shapes" if self.synthetic else self.folder.name
        block: dict[str, Any] = {"name": name}
        if "train" in self.datasets:
            block["n_train"] = len(self.datasets["train"])
        return block

    def record_scenario(self) -> dict[str, Any]:
        """Scenario block of the run record."""
        return {"task": "object_detection", "modality": "image"}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave batches alone: the detectors' preprocessors move them."""
        return batch

    # -- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches grouped by aspect ratio."""
        dataset = self.datasets["train"]
        wide = [x["width"] > x["height"] for x in dataset.records]
        batches = AspectRatioBatches(wide, self.batch_size, seed=self.seed, drop_last=self.drop_last)
        return ResumableLoader(dataset, batches, num_workers=self.num_workers, collate_fn=collate)

    def _evaluation(self, split: str) -> ResumableLoader:
        dataset = self.datasets[split]
        wide = [x["width"] > x["height"] for x in dataset.records]
        batches = AspectRatioBatches(wide, self.batch_size, shuffle=False, seed=self.seed)
        return ResumableLoader(dataset, batches, num_workers=self.num_workers, collate_fn=collate)

    def val_dataloader(self) -> ResumableLoader:
        """All validation images."""
        return self._evaluation("val")

    def test_dataloader(self) -> ResumableLoader:
        """All test images."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Pictures of ``predict_images`` (validation images where not given), one by one."""
        dataset = self.datasets["val"] if self.predict_images is None else self._pictures()
        return DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=self.num_workers)

    def _picture_paths(self) -> list[Path]:
        """Every picture under ``predict_images``, in the order of their paths (ValueError if there is none)."""
        folder = Path(self.predict_images or "")
        paths = sorted(p for p in folder.glob("**/*") if p.suffix.lower() in _PICTURES) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"no picture ({', '.join(sorted(_PICTURES))}) in predict_images={folder}")
        return paths

    def _pictures(self) -> DetectionDataset:
        """The pictures, numbered from 1."""
        paths = self._picture_paths()
        records = [{"img_id": i, "img_path": str(p), "instances": []} for i, p in enumerate(paths, start=1)]
        return DetectionDataset(records, default_pipeline(self.image_scale, None), self.seed)
