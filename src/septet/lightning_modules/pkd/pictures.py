"""Ground truth, teacher and student boxes side by side, as PNG and as W&B box overlays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from septet.lightning_modules.pkd.detectors import to_coco

_PALETTE = ((230, 60, 60), (50, 130, 240), (40, 170, 90), (240, 160, 30), (150, 80, 200), (20, 180, 190))
_WIDTH = 320
_MIN_SCORE = 0.3
_MAX_BOXES = 30


def colour_of(label: int) -> tuple[int, int, int]:
    """Colour of a class; repeats after six."""
    return _PALETTE[label % len(_PALETTE)]


def draw_boxes(
    image: np.ndarray[Any, Any], rows: Sequence[Mapping[str, Any]], names: Mapping[int, str], title: str = ""
) -> np.ndarray[Any, Any]:
    """An image with its boxes, class names and scores.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        rows: COCO detections or annotations (xywh pixels).
        names: class name of each category id, in label order.
        title: caption on a strip above the image.

    Returns:
        ``(h, 320, 3)`` uint8.
    """
    from PIL import Image, ImageDraw

    scale = _WIDTH / image.shape[1]
    strip = 14
    small = Image.fromarray(image).resize((_WIDTH, max(1, round(image.shape[0] * scale))))
    canvas = Image.new("RGB", (_WIDTH, small.height + strip), (255, 255, 255))
    canvas.paste(small, (0, strip))
    pen = ImageDraw.Draw(canvas)
    pen.text((3, 1), title, fill=(0, 0, 0))
    labels = {category: number for number, category in enumerate(names)}
    for row in sorted(rows, key=lambda r: r.get("score", 1.0))[-_MAX_BOXES:]:
        x, y, w, h = (float(v) * scale for v in row["bbox"])
        colour = colour_of(labels[row["category_id"]])
        pen.rectangle((x, y + strip, x + max(w, 1), y + max(h, 1) + strip), outline=colour, width=2)
        score = f" {row['score']:.2f}" if "score" in row else ""
        text, corner = f"{names[row['category_id']]}{score}", (x + 2, y + strip + 1)
        pen.rectangle(pen.textbbox(corner, text), fill=colour)
        pen.text(corner, text, fill=(255, 255, 255))
    return np.asarray(canvas)


def read_image(path: str) -> np.ndarray[Any, Any]:
    """``(H, W, 3)`` uint8 RGB."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _column(panels: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Stack rows of equal width."""
    return np.concatenate(list(panels), axis=0)


class PictureBook:
    """The first ``count`` images of a split, drawn after every evaluation.

    Args:
        module: the distiller.
        data: its data module.
        count: images; 0 draws nothing.
    """

    def __init__(self, module: Any, data: Any, count: int) -> None:
        self.module, self.data, self.count = module, data, count
        self._found: list[dict[str, Any]] = []
        self._teacher: dict[str, dict[int, list[dict[str, Any]]]] = {}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the student's detections on the chosen images."""
        self._found += [r for r in rows if r["score"] >= _MIN_SCORE]

    def _teacher_rows(self, split: str, indices: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """Teacher 0's detections on the chosen images, computed once."""
        if split not in self._teacher:
            self._teacher[split] = {}
            if self.module.teachers:
                for i in indices:
                    samples = self.module.teachers[0].predict(self.data.batch(split, [i]))
                    self._teacher[split][int(samples[0].img_id)] = _drawable(samples, self.data.category_ids)
        return self._teacher[split]

    def publish(self, stage: str) -> None:
        """Write ``media/<stage>_boxes.png`` and log overlays; forgets the detections."""
        found, self._found = self._found, []
        trainer = self.module.trainer
        if not self.count or not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:
            return
        split = "test" if stage == "test" else "val"
        truth = self.data.ground_truth(split)
        names = dict(zip(self.data.category_ids, self.data.classes, strict=True))
        records = self.data.datasets[split].records[: self.count]
        teacher = self._teacher_rows(split, range(len(records)))
        rows = []
        for record in records:
            image_id = record["img_id"]
            sides = {
                "ground truth": [a for a in truth["annotations"] if a["image_id"] == image_id],
                "teacher": teacher.get(image_id, []),
                "student": [r for r in found if r["image_id"] == image_id],
            }
            rows.append((record["img_path"], {k: v for k, v in sides.items() if k != "teacher" or teacher}))
        self._draw(stage, rows, names)
        _log_overlays(self.module.loggers, stage, rows, names)

    def _draw(self, stage: str, rows: Sequence[tuple[str, dict[str, Any]]], names: Mapping[int, str]) -> None:
        panels = []
        for path, sides in rows:
            image = read_image(path)
            panels.append(
                np.concatenate([draw_boxes(image, boxes, names, side) for side, boxes in sides.items()], axis=1)
            )
        self.module.save_picture(f"{stage}_boxes", _column(panels))


def _drawable(samples: Sequence[Any], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Confident detections; none where the teacher has other classes than the data."""
    labels = [int(label) for s in samples for label in s.pred_instances.labels.tolist()]
    if labels and max(labels) >= len(category_ids):
        return []
    return [r for r in to_coco(samples, category_ids) if r["score"] >= _MIN_SCORE]


def wandb_boxes(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    """W&B's box-overlay mapping of COCO rows, in pixels."""
    boxes = []
    for row in rows[:_MAX_BOXES]:
        x, y, w, h = (float(v) for v in row["bbox"])
        position = {"minX": x, "minY": y, "maxX": x + w, "maxY": y + h}
        box = {"position": position, "domain": "pixel", "class_id": int(row["category_id"])}
        if "score" in row:
            box["scores"] = {"score": float(row["score"])}
        boxes.append(box)
    return {"box_data": boxes, "class_labels": {int(k): v for k, v in names.items()}}


def _log_overlays(
    loggers: Sequence[Any], stage: str, rows: Sequence[tuple[str, dict[str, Any]]], names: Mapping[int, str]
) -> None:
    for logger in loggers:
        if type(logger).__name__ != "WandbLogger":
            continue
        import wandb

        table = wandb.Table(columns=["image", *rows[0][1]])
        for path, sides in rows:
            image = read_image(path)
            cells = [
                wandb.Image(image, boxes={side.replace(" ", "_"): wandb_boxes(boxes, names)})
                for side, boxes in sides.items()
            ]
            table.add_data(path.rsplit("/", 1)[-1], *cells)
        logger.experiment.log({f"{stage}/boxes": table})
