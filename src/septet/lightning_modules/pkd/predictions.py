"""``septet predict``: COCO detections and pictures of a folder of images."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from septet.lightning_modules.pkd.detectors import to_coco
from septet.lightning_modules.pkd.pictures import draw_boxes, read_image

_MIN_SCORE = 0.3
_COLUMNS = ("image", "image_id", "category", "score", "x", "y", "width", "height")


class PredictionWriter:
    """Collects detections, draws each picture, writes ``predictions.json`` at the end.

    Args:
        folder: run directory; pictures go to ``predictions/``.
        classes: names in label order.
        category_ids: id of each.
    """

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.folder, self.category_ids = folder, list(category_ids)
        self.names = dict(zip(category_ids, classes, strict=True))
        self.images: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []
        (folder / "predictions").mkdir(parents=True, exist_ok=True)

    def add(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Take a batch of predicted samples; returns flat rows for ``predictions.csv``."""
        from PIL import Image

        rows = []
        for sample in samples:
            path = Path(sample.img_path)
            height, width = sample.ori_shape[:2]
            image = {"id": int(sample.img_id), "file_name": path.name, "width": int(width), "height": int(height)}
            self.images.append(image)
            found = to_coco([sample], self.category_ids)
            self.detections += found
            shown = [r for r in found if r["score"] >= _MIN_SCORE]
            picture = draw_boxes(read_image(str(path)), shown, self.names, path.name)
            Image.fromarray(picture).save(self.folder / "predictions" / f"{int(sample.img_id):06d}_{path.stem}.png")
            rows += [self._row(path.name, r) for r in found]
        return rows

    def _row(self, name: str, detection: dict[str, Any]) -> dict[str, Any]:
        x, y, w, h = detection["bbox"]
        category = self.names[detection["category_id"]]
        values = (name, detection["image_id"], category, detection["score"], x, y, w, h)
        return dict(zip(_COLUMNS, values, strict=True))

    def close(self, csv_name: str = "predictions.csv") -> None:
        """Write ``predictions.json``: the COCO detections, beside ``predictions_images.json``, their images.

        Args:
            csv_name: table of the rows, which the command line writes; only its header is written here where there
                is no detection, so that none of an earlier call stays.
        """
        if not self.detections:
            with (self.folder / csv_name).open("w", newline="") as handle:
                csv.writer(handle).writerow(_COLUMNS)
        (self.folder / "predictions.json").write_text(json.dumps(self.detections))
        categories = [{"id": k, "name": v} for k, v in self.names.items()]
        listing = {"images": self.images, "categories": categories}
        (self.folder / "predictions_images.json").write_text(json.dumps(listing))
