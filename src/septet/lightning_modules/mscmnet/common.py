"""What MSCMNet and AGW share: training step, evaluation of every setting, search, records."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn import functional as F

from septet.kernels import ranking
from septet.kernels.ranking import LLCM, LLCM_STRICT, REGDB, SYSU, Ranking, rank_distances
from septet.lightning_modules.mscmnet import losses, pictures, tables
from septet.lightning_modules.mscmnet.attention import mimb_figure
from septet.lightning_modules.mscmnet.checks import check_gallery_size, check_settings, check_state
from septet.lightning_modules.mscmnet.gather import gather_rows
from septet.lightning_modules.mscmnet.metrics import ReIDMetric, Side, summary
from septet.lightning_modules.mscmnet.model import AGWNet, Modality, QuadStreamNet, parameter_count
from septet.lightning_modules.mscmnet.schedule import warmup_multistep
from septet.lightning_modules.mscmnet.search import FolderSearch

PROTOCOLS = {p.name: p for p in (SYSU, REGDB, LLCM, LLCM_STRICT)}
Triplet = Literal["qct", "wrt", "batch_hard", "hetero_center", "none"]
FEATURES = ("bn", "pool")
SHORT = ("rank1", "mAP", "mINP")
"""What is logged beside the reported setting's full set: of pool features, other settings, re-ranking, spreads."""


class CrossModalReID(FolderSearch):
    """What MSCMNet and AGW share: steps, evaluation of every setting, records, pictures, search.

    Logged: ``val/`` and ``test/`` rank1, rank5, rank10, rank20, mAP, mINP (bn features, means over trials); rank1, mAP,
    mINP also under ``pool/`` and, in tests, under each other setting's name, ``std/`` (over more than one trial) and
    ``rerank/`` (only when ``rerank`` is set). The page ``media/ranking.html`` holds every figure of every setting.
    """

    monitor: ClassVar[str] = "val/rank1"
    mode: ClassVar[str] = "max"
    name: ClassVar[str] = ""

    def _settings(self, arguments: dict[str, Any]) -> None:
        """Check and keep the constructor's arguments."""
        self.save_hyperparameters({k: v for k, v in arguments.items() if k not in ("self", "__class__")})
        check_settings(arguments)
        self.net = None
        self._precision = torch.get_float32_matmul_precision()
        self.meters: dict[str, ReIDMetric] = {}
        self.history: list[dict[str, float]] = []
        self._data_identity: dict[str, Any] | None = None

    # -- training ---------------------------------------------------------------------------------------------------

    def forward_batch(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Features, logits and the number of streams of a batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward_batch")

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Cross-entropy plus the metric loss, both in float32; with ``tf32`` the latter in float64.

        Products in float64 are not rounded to TF32, so that the centres stay as exact as without it.
        """
        pool, logits, streams = self.forward_batch(batch)
        labels = batch.labels.repeat(streams)
        with torch.autocast(self.device.type, enabled=False):
            identity = F.cross_entropy(logits.float(), labels, label_smoothing=self.hparams["label_smoothing"])
            wide = pool.double() if self.hparams["tf32"] else pool.float()
            metric = self.metric_loss(wide, labels, streams).float()
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

    def finish_model(self, net: QuadStreamNet | AGWNet) -> None:
        """Take a built network, in the memory format and form that were asked for."""
        if self.hparams["channels_last"]:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.hparams["compile"]:
            net.compile()  # in place: names of parameters stay, evaluation by `embed` is not compiled
        self.net = net

    def on_fit_start(self) -> None:
        """TF32 products in float32 parts, if asked; a switch of the whole process, put back after the fit."""
        self._precision = torch.get_float32_matmul_precision()
        if self.hparams["tf32"]:
            torch.set_float32_matmul_precision("high")

    def on_fit_end(self) -> None:
        """The process' own precision again."""
        torch.set_float32_matmul_precision(self._precision)

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
        if stage == "test" and self.hparams["rerank"] is not None and "test" in data.evaluations:
            check_gallery_size(self.hparams["rerank"], data.evaluations["test"])
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
        """Refuse another network's state; take data set and trial for the comparison, when the data are known."""
        super().on_load_checkpoint(checkpoint)
        if self.net is not None and self.strict_loading:
            kept = checkpoint.get("hyper_parameters") or {}
            check_state(self.state_dict(), checkpoint.get("state_dict") or {}, self.hparams, kept)
        self._data_identity = checkpoint.get("reid_data")
        if self._trainer is not None and getattr(self._trainer, "datamodule", None) is not None:
            self._compare()

    def _compare(self) -> None:
        self.setup("restored")

    # -- evaluation -------------------------------------------------------------------------------------------------

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
        """Log the reported setting: all figures of bn, the short ones of pool, in tests bn's spread over trials."""
        found: dict[str, float] = {}
        for name, meter in self.meters.items():
            values = {key: float(value) for key, value in meter.compute().items()}
            means = {k: v for k, v in values.items() if not k.endswith("_std")}
            if name == "bn":
                found |= {f"{stage}/{key}": value for key, value in means.items()}
                if stage == "test" and len(meter.galleries or ()) > 1:
                    found |= {f"test/std/{key}": values[f"{key}_std"] for key in SHORT}
            else:
                found |= {f"{stage}/{name}/{key}": means[key] for key in SHORT}
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
        """Every setting from the same features, re-ranking if asked, pictures and tables."""
        self._finish("test")
        evaluation = self.data.evaluations["test"]
        meter = self.meters["bn"]
        others = {k: v for k, v in evaluation.galleries.items() if k != evaluation.primary}
        with meter.sync_context():
            query, gallery = meter.sides()
            flat = [trial for trials in others.values() for trial in trials]
            ranked = iter(meter.rankings(flat) if flat else [])
        results = {name: [next(ranked) for _ in trials] for name, trials in others.items()}
        if self.hparams["rerank"] is not None:
            results["rerank"] = self._rerank(query, gallery, evaluation)
        table = {name: summary(trials, spread=True) for name, trials in results.items()}
        for name, values in table.items():
            self.log_dict({f"test/{name}/{key}": float(values[key]) for key in SHORT})
        table = {evaluation.primary: meter.compute()} | table
        if self.trainer.is_global_zero:
            self._draw(query, gallery, evaluation, table)

    def _draw(self, query: Side, gallery: Side, evaluation: Any, table: dict[str, dict[str, Tensor]]) -> None:
        """Pictures, tables and the page of the first trial."""
        first = pictures.first_trial(query, gallery, evaluation, PROTOCOLS[evaluation.protocol])
        for name, picture in pictures.draw(first, evaluation, self.data.root, self.history):
            self.save_picture(name, picture)
        if self.net is not None and len(self.net.mimb):
            rows = torch.linspace(0, len(evaluation.query) - 1, 3).long().unique().tolist()
            images = self.data.images([evaluation.query[n] for n in rows])
            self.save_picture("mimb_attention", mimb_figure(self.net, images.to(self.device), self.data.query_modality))
        found = tables.settings(table), tables.cameras(first), tables.worst(first, evaluation)
        self.save_picture("tables", tables.figure(found[:2]))
        for entry in found:
            for logger in self.loggers:
                if hasattr(logger, "log_table"):
                    logger.log_table(key=f"media/{entry.name}", columns=entry.columns, data=entry.rows)
        self.save_media("ranking.html", tables.page(found, evaluation.primary))

    def _rerank(self, query: Side, gallery: Side, evaluation: Any) -> list[Ranking]:
        """k-reciprocal re-ranking of the reported setting, one ranking per trial."""
        results = []
        protocol = PROTOCOLS[evaluation.protocol]
        for trial in evaluation.galleries[evaluation.primary]:
            at = torch.as_tensor(trial)
            distance = ranking.rerank(query.features.cpu(), gallery.features.cpu()[at], **self.hparams["rerank"])
            sides = query.ids, gallery.ids.cpu()[at], query.cams, gallery.cams.cpu()[at]
            results.append(rank_distances(distance, *sides, protocol=protocol))
        return results

    # -- record -----------------------------------------------------------------------------------------------------

    def record_fields(self) -> dict[str, Any]:
        """Model, protocol and how the numbers were come by."""
        data, hparams = self.data, self.hparams
        keys = ("trunk", "residual", "mimb", "triplet", "alpha", "margin", "channels_last", "compile", "tf32")
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
        if "test" in data.evaluations:
            protocol |= {"queries_left_out": data.evaluations["test"].left_out()}
        if data.balance_cameras:
            protocol["sampler"] = "camera-balanced"
        if data.shuffle_infrared or data.shuffle_labels:
            protocol["control"] = "training labels shuffled" if data.shuffle_labels else "infrared identities permuted"
        return {"model": model, "protocol": protocol}
