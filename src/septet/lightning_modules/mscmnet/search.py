"""Embedding of images and search of queries in a gallery: ``septet predict``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from septet.lightning_modules.mscmnet.model import AGWNet, Embedding, Modality, QuadStreamNet
from septet.lightning_modules.task import Task

SEARCH = 10


class FolderSearch(Task):
    """A task with a cross-modal network that embeds and searches; writes ``index.npz`` of the gallery."""

    net: QuadStreamNet | AGWNet | None

    @property
    def data(self) -> Any:
        """The data module."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not hasattr(data, "evaluations"):
            raise ValueError("this method reads ReIDQuadrupleStreams: pass it as the data module")
        return data

    def embed(self, images: Tensor, modality: Modality) -> Embedding:
        """Features of images; with ``flip_test`` those of the flipped image are added and normalised again."""
        assert self.net is not None
        out = self.net.embed(images, modality)
        if not self.hparams["flip_test"]:
            return out
        twin = self.net.embed(images.flip(3), modality)
        return Embedding(F.normalize(out.pool + twin.pool), F.normalize(out.bn + twin.bn))

    def on_predict_epoch_start(self) -> None:
        """Embed the whole gallery once and keep it as an index file."""
        self._gallery = self._embed_gallery()
        evaluation = self.data.evaluations["predict"]
        names = [evaluation.prefix + s.path for s in evaluation.pool]
        path = self.run_dir / "index.npz"
        if self.trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, features=self._gallery.cpu().numpy(), paths=np.asarray(names))

    @torch.no_grad()
    def _embed_gallery(self) -> Tensor:
        data = self.data
        other: Modality = "visible" if data.query_modality == "infrared" else "infrared"
        loader: Any = self.trainer.predict_dataloaders
        found = []
        for number in range(len(loader.dataset)):
            images = loader.dataset[number].gallery.images
            if len(images):
                found.append(self.embed(images.to(self.device), other).bn)
        return torch.cat(found)

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """The ten nearest gallery images of each query, one row each."""
        if not len(batch.query.images):
            return []
        evaluation = self.data.evaluations["predict"]
        score = self.embed(batch.query.images, self.data.query_modality).bn @ self._gallery.T
        best = score.topk(min(SEARCH, score.shape[1]), 1)
        return [
            {
                "query": evaluation.prefix + evaluation.query[int(q)].path,
                "rank": n + 1,
                "gallery": evaluation.prefix + evaluation.pool[int(g)].path,
                "score": float(s),
            }
            for q, values, indices in zip(batch.query.place, best.values, best.indices, strict=True)
            for n, (s, g) in enumerate(zip(values, indices, strict=True))
        ]
