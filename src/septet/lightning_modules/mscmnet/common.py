"""What MSCMNet and AGW share: training step, evaluation of every setting, search, records."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn import functional as F

from septet.kernels import ranking
from septet.kernels.ranking import LLCM, LLCM_STRICT, REGDB, SYSU, rank_distances
from septet.lightning_modules.mscmnet import losses, pictures
from septet.lightning_modules.mscmnet.gather import gather_rows
from septet.lightning_modules.mscmnet.metrics import ReIDMetric, Side, summary
from septet.lightning_modules.mscmnet.model import AGWNet, Embedding, Modality, QuadStreamNet, parameter_count
from septet.lightning_modules.mscmnet.schedule import warmup_multistep
from septet.lightning_modules.task import Task

PROTOCOLS = {p.name: p for p in (SYSU, REGDB, LLCM, LLCM_STRICT)}
Triplet = Literal["qct", "wrt", "batch_hard", "hetero_center", "none"]
FEATURES = ("bn", "pool")
SEARCH = 10


class CrossModalReID(Task):
    """What MSCMNet and AGW share: steps, evaluation of every setting, records, pictures, search.

    Logged: ``val/`` and ``test/`` rank1, rank5, rank10, rank20, mAP, mINP (bn features, means over trials), the same
    under ``pool/`` and, in tests, under each other setting's name; ``rerank/`` only when ``rerank`` is set.
    """

    monitor: ClassVar[str] = "val/rank1"
    mode: ClassVar[str] = "max"
    name: ClassVar[str] = ""

    def _settings(self, arguments: dict[str, Any]) -> None:
        """Check and keep the constructor's arguments."""
        self.save_hyperparameters({k: v for k, v in arguments.items() if k not in ("self", "__class__")})
        if arguments["triplet"] not in ("qct", "wrt", "batch_hard", "hetero_center", "none"):
            raise ValueError(
                f"unknown triplet {arguments['triplet']!r}: choose qct, wrt, batch_hard, hetero_center or none"
            )
        if arguments["lr"] <= 0:
            raise ValueError(f"lr={arguments['lr']} is not above 0")
        if arguments["interval"] not in ("epoch", "step"):
            raise ValueError(f"unknown interval {arguments['interval']!r}: choose 'epoch' or 'step'")
        if any(side % 16 or side < 16 for side in arguments["image_size"]):
            raise ValueError(f"image_size {tuple(arguments['image_size'])}: both sides must be multiples of 16")
        self.net: QuadStreamNet | AGWNet | None = None
        self.meters: dict[str, ReIDMetric] = {}
        self.history: list[dict[str, float]] = []
        self._data_identity: dict[str, Any] | None = None

    # -- training ---------------------------------------------------------------------------------------------------

    def forward_batch(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Features, logits and the number of streams of a batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward_batch")

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Cross-entropy plus the metric loss, both in float32."""
        pool, logits, streams = self.forward_batch(batch)
        labels = batch.labels.repeat(streams)
        with torch.autocast(self.device.type, enabled=False):
            identity = F.cross_entropy(logits.float(), labels, label_smoothing=self.hparams["label_smoothing"])
            metric = self.metric_loss(pool.float(), labels, streams)
        loss = identity + metric
        for key, value in (("loss", loss), ("identity", identity), ("metric", metric)):
            self.log(f"train/{key}", value.detach())
        return loss

    def metric_loss(self, features: Tensor, labels: Tensor, streams: int) -> Tensor:
        """The chosen metric loss, over the rows of all processes if ``gather_centers``."""
        kind, margin = self.hparams["triplet"], self.hparams["margin"]
        if kind == "none":
            return features.new_zeros(())
        number = torch.arange(streams, device=labels.device).repeat_interleave(len(labels) // streams)
        if self.hparams["gather_centers"]:
            features, labels, number = gather_rows(features), gather_rows(labels), gather_rows(number)
        if kind == "qct":
            alpha = self.hparams["alpha"]
            return losses.quadruple_center_triplet(features, labels, streams=number, margin=margin, alpha=alpha)
        if kind == "wrt":
            return losses.weighted_regularized_triplet(features, labels)
        loss = losses.batch_hard_triplet if kind == "batch_hard" else losses.hetero_center_triplet
        return loss(features, labels, margin=margin)

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum in three groups, warm-up and steps."""
        assert self.net is not None
        heads = {"neck": self.net.neck, "classifier": self.net.classifier}
        taken = {id(p) for m in heads.values() for p in m.parameters()}
        lr, factor = self.hparams["lr"], self.hparams["base_factor"]
        base = [p for p in self.net.parameters() if id(p) not in taken and p.requires_grad]
        groups = [{"params": base, "lr": lr * factor}]
        groups += [{"params": [p for p in m.parameters() if p.requires_grad], "lr": lr} for m in heads.values()]
        assert all(g["params"] for g in groups)
        decay = self.hparams["weight_decay"]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
        settings = self.hparams["schedule"] or {}
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: warmup_multistep(e, **settings))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.hparams["interval"]}}

    # -- data -------------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The data module."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not hasattr(data, "evaluations"):
            raise ValueError("this method reads ReIDQuadrupleStreams: pass it as the data module")
        return data

    def setup(self, stage: str) -> None:
        """Compare the model with the data."""
        super().setup(stage)
        data = self.data
        if tuple(data.image_size) != tuple(self.hparams["image_size"]):
            raise ValueError(f"data.image_size {data.image_size} differs from model.image_size: set both alike")
        if stage == "fit" and data.num_classes != self.hparams["num_classes"]:
            raise ValueError(
                f"num_classes={self.hparams['num_classes']}, but the data hold {data.num_classes} training identities: "
                f"set model.num_classes={data.num_classes}"
            )
        known = self._data_identity
        if known is not None and known["dataset"] == data.dataset and known != data.identity():
            raise ValueError(
                f"the checkpoint was trained on trial {known['trial']}, the data are trial {data.trial}: identities "
                "of its test half were seen in training; set data.trial to the checkpoint's"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember data set and trial."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reid_data"] = self.data.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take data set and trial for the comparison, when the data module is known."""
        super().on_load_checkpoint(checkpoint)
        self._data_identity = checkpoint.get("reid_data")
        if self._trainer is not None and getattr(self._trainer, "datamodule", None) is not None:
            self._compare()

    def _compare(self) -> None:
        self.setup("restored")

    # -- evaluation -------------------------------------------------------------------------------------------------

    def embed(self, images: Tensor, modality: Modality) -> Embedding:
        """Features of images; with ``flip_test`` those of the flipped image are added and normalised again."""
        assert self.net is not None
        out = self.net.embed(images, modality)
        if not self.hparams["flip_test"]:
            return out
        twin = self.net.embed(images.flip(3), modality)
        return Embedding(F.normalize(out.pool + twin.pool), F.normalize(out.bn + twin.bn))

    def _start(self, part: str) -> None:
        evaluation = self.data.evaluations[part]
        galleries = evaluation.galleries[evaluation.primary]
        self.meters = {
            f: ReIDMetric(PROTOCOLS[evaluation.protocol], galleries=galleries).to(self.device) for f in FEATURES
        }

    def _collect(self, batch: Any) -> None:
        query: Modality = self.data.query_modality
        other: Modality = "visible" if query == "infrared" else "infrared"
        for side, modality, is_query in ((batch.query, query, True), (batch.gallery, other, False)):
            if len(side.images):
                out = self.embed(side.images, modality)
                for name, meter in self.meters.items():
                    meter.update(getattr(out, name), side.ids, side.cams, side.place, is_query=is_query)

    def _finish(self, stage: str) -> dict[str, float]:
        """Log the reported setting under ``stage/``, pool features under ``stage/pool/``."""
        found: dict[str, float] = {}
        for name, meter in self.meters.items():
            prefix = "" if name == "bn" else f"{name}/"
            found |= {f"{stage}/{prefix}{key}": float(value) for key, value in meter.compute().items()}
        self.log_dict(found, sync_dist=False)
        return found

    def on_validation_epoch_start(self) -> None:
        """New metrics."""
        self._start("val")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Features of a chunk."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Rank all queries."""
        found = self._finish("val")
        if not self.trainer.sanity_checking:
            self.history.append({"epoch": float(self.current_epoch), **found})

    def on_test_epoch_start(self) -> None:
        """New metrics."""
        self._start("test")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Features of a chunk."""
        self._collect(batch)

    def on_test_epoch_end(self) -> None:
        """Every setting from the same features, re-ranking if asked, pictures."""
        self._finish("test")
        evaluation = self.data.evaluations["test"]
        meter = self.meters["bn"]
        with meter.sync_context():
            query, gallery = meter.sides()
            others = {k: v for k, v in evaluation.galleries.items() if k != evaluation.primary}
            flat = [trial for trials in others.values() for trial in trials]
            ranked = iter(meter.rankings(flat) if flat else [])
        for setting, trials in others.items():
            values = summary([next(ranked) for _ in trials], spread=True)
            self.log_dict({f"test/{setting}/{key}": float(value) for key, value in values.items()})
        if self.hparams["rerank"] is not None:
            self._rerank(query, gallery, evaluation)
        for name, picture in pictures.draw(query, gallery, evaluation, meter.protocol, self.data.root, self.history):
            self.save_picture(name, picture)
        self.save_media("ranking.html", pictures.page(query, gallery, evaluation, meter.protocol))

    def _rerank(self, query: Side, gallery: Side, evaluation: Any) -> None:
        """k-reciprocal re-ranking of the reported setting, always under its own names."""
        results = []
        protocol = PROTOCOLS[evaluation.protocol]
        for trial in evaluation.galleries[evaluation.primary]:
            at = torch.as_tensor(trial)
            distance = ranking.rerank(query.features.cpu(), gallery.features.cpu()[at], **self.hparams["rerank"])
            sides = query.ids, gallery.ids.cpu()[at], query.cams, gallery.cams.cpu()[at]
            results.append(rank_distances(distance, *sides, protocol=protocol))
        self.log_dict({f"test/rerank/{k}": float(v) for k, v in summary(results, spread=True).items()})

    # -- search -----------------------------------------------------------------------------------------------------

    def on_predict_epoch_start(self) -> None:
        """Embed the whole gallery once and keep it as an index file."""
        self._gallery = self._embed_gallery()
        names = [s.path for s in self.data.evaluations["predict"].pool]
        path = self.run_dir / "index.npz"
        if self.trainer.is_global_zero:
            import numpy as np

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
                "query": evaluation.query[int(q)].path,
                "rank": n + 1,
                "gallery": evaluation.pool[int(g)].path,
                "score": float(s),
            }
            for q, values, indices in zip(batch.query.place, best.values, best.indices, strict=True)
            for n, (s, g) in enumerate(zip(values, indices, strict=True))
        ]

    def record_fields(self) -> dict[str, Any]:
        """Model, protocol and how the numbers were come by."""
        data, hparams = self.data, self.hparams
        keys = ("trunk", "residual", "mimb", "triplet", "alpha", "margin")
        model = {"name": self.name} | {k: hparams[k] for k in keys if k in hparams}
        if self.net is not None:
            model["params"] = parameter_count(self.net)
        protocol: dict[str, Any] = {
            "evaluator": data.dataset + ("_strict" if data.strict else ""), "feature": "bn", "text": False,
            "rerank": hparams["rerank"] is not None, "flip_test": hparams["flip_test"], "selection": data.select_on,
            "image_size": list(data.image_size), "train_identities": hparams["num_classes"],
        }  # fmt: skip
        if data.dataset == "sysu":
            protocol |= {"mode": data.mode, "shots": data.shots, "gallery_family": data.family, "trials": 10}
        else:
            protocol |= {"direction": data.direction} | ({"trial": data.trial} if data.dataset == "regdb" else {})
        if data.shuffle_infrared:
            protocol["control"] = "infrared identities permuted"
        return {"model": model, "protocol": protocol}
