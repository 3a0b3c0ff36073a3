"""SMAP as a LightningModule: a thin wrapper around :class:`RecallNet`."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.tensors import Memory, Query
from septet.lightning_modules.smap import cold
from septet.lightning_modules.smap.metrics import AssignmentMetrics
from septet.lightning_modules.smap.model import Prediction, RecallNet, training_hides
from septet.lightning_modules.smap.objective import objective
from septet.lightning_modules.smap.probing import Probes, with_probes
from septet.lightning_modules.smap.stack import CRITERIA, stacked
from septet.lightning_modules.task import Task

ENCODERS = ("none", "hgt", "han")
PRIORS = ("mean", "stack")


class SMAP(Task):
    """Which model for which column: recall over measured results (a declared reconstruction of arXiv 2305.13634).

    The body of the paper cannot be had; the design is ours and claims no parity (README).

    Args:
        encoder: ``none`` (features and identities), ``hgt`` or ``han`` (graph attention on top).
        hidden: width.
        heads: attention heads.
        layers: of a graph encoder.
        tau: distance at which recall has faded to 1/e of its pull.
        temperature: of the list and pair losses.
        loss_weights: of list, bpr, pinball, latency, link.
        delta: least difference of a training pair.
        lr: of AdamW with OneCycle; the few scalars take a fifth of it, matrices a fiftieth.
        weight_decay: of AdamW.
        steps: optimiser steps of ``fit_predict`` (a Trainer uses its own length).
        hide_models: share of models whose records a step hides.
        hide_scenario: share of queries that do not know their scenario.
        ensemble: members of ``fit_predict``.
        features: ``auto`` (column features) or ``none``.
        prior: ``mean`` (each model's train mean) or ``stack`` (its values dealt in the order of a stack of plain
            rules, weighted by an inner cross-validation on train columns).
        criterion: inner loss of the stack, ``regret`` or ``ndcg5``.
        sharpness: of the stack's weights; infinity keeps the best rule only.
        gate: logit at which the gates from prior to recall start.
        seed: of hiding under a Trainer.

    Raises:
        ValueError: an argument out of range.
    """

    monitor: ClassVar[str] = "val/ndcg5"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        encoder: str = "none",
        hidden: int = 64,
        heads: int = 4,
        layers: int = 2,
        tau: float = 1.0,
        temperature: float = 0.25,
        loss_weights: Sequence[float] = (1.0, 0.5, 1.0, 0.2, 0.1),
        delta: float = 0.01,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        steps: int = 300,
        hide_models: float = 0.15,
        hide_scenario: float = 0.2,
        ensemble: int = 3,
        features: str = "auto",
        prior: str = "stack",
        criterion: str = "regret",
        sharpness: float = 1.0,
        gate: float = -2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        loss_weights = [float(w) for w in loss_weights]
        self.save_hyperparameters()
        self._check()
        self.net: RecallNet | None = None
        self.graph_net: nn.Module | None = None
        self.shape: dict[str, int] | None = None
        self.stack_weights: dict[str, float] = {}
        self.timed: dict[str, float] = {}

    def _check(self) -> None:
        h = self.hparams
        if h["encoder"] not in ENCODERS:
            raise ValueError(f"unknown encoder {h['encoder']!r}: choose one of {', '.join(ENCODERS)}")
        if h["features"] not in ("auto", "none"):
            raise ValueError(f"features is {h['features']!r}; use auto or none")
        if h["prior"] not in PRIORS:
            raise ValueError(f"prior is {h['prior']!r}; use {' or '.join(PRIORS)}")
        if h["criterion"] not in CRITERIA:
            raise ValueError(f"criterion is {h['criterion']!r}; use {' or '.join(CRITERIA)}")
        for name in ("hidden", "heads", "layers", "tau", "temperature", "lr", "ensemble"):
            if not h[name] > 0:
                raise ValueError(f"{name} is {h[name]}; it must be positive")
        for name in ("steps", "sharpness"):
            if not h[name] >= 0:
                raise ValueError(f"{name} is {h[name]}; it is not negative")
        if h["hidden"] % h["heads"]:
            raise ValueError(f"hidden {h['hidden']} is not a multiple of heads {h['heads']}")
        for name in ("hide_models", "hide_scenario"):
            if not 0 <= h[name] < 1:
                raise ValueError(f"{name} is {h[name]}; a share in [0, 1)")
        if len(h["loss_weights"]) != 5 or min(h["loss_weights"]) < 0:
            raise ValueError(
                f"loss_weights are {h['loss_weights']}: five, not negative (list, bpr, pinball, latency, link)"
            )

    # -- building ---------------------------------------------------------------------------------------------------

    def configure_metrics(self) -> None:
        """Metrics of validation and test; their kind is set with the data."""
        self.val_metrics, self.test_metrics = AssignmentMetrics(), AssignmentMetrics()

    def build(self, shape: dict[str, int], graph: Any = None) -> None:
        """Fresh networks for tables of these sizes."""
        h = self.hparams
        self.shape = dict(shape)
        self.net = RecallNet(shape, h["hidden"], h["heads"], h["tau"], gate=h["gate"])
        self.graph_net = None
        if h["encoder"] != "none":
            from septet.lightning_modules.smap.encoders import GraphEncoder, sizes_of

            sizes: Any = shape.get("graph_sizes") or (sizes_of(graph) if graph is not None else None)
            if sizes is None:
                raise ValueError(f"encoder {h['encoder']} needs torch_geometric: pip install 'septet[graph]'")
            self.shape["graph_sizes"] = sizes
            self.graph_net = GraphEncoder(h["encoder"], sizes, h["hidden"], h["heads"], h["layers"])

    def setup(self, stage: str) -> None:
        """Read the sizes and the metric's kind from the data."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.memory.stack is None and data.memory.cold is None:
            self.add_prior(data.memory, data.bench, data.part, {data.bench.group[j] for j in data.val_columns})
        for metric in (self.val_metrics, self.test_metrics):
            metric.kind = data.bench.kind
        if self.net is None:
            self.build(data.memory.shape, data.graph)
        if self.shape is not None and data.memory.shape != {k: self.shape[k] for k in data.memory.shape}:
            raise ValueError(f"the weights are for tables of sizes {self.shape}, the data have {data.memory.shape}")

    def add_prior(
        self, memory: Memory, bench: Bench, part: Split, hidden: Collection[str] = (), probes: Probes | None = None
    ) -> None:
        """Rank all models on the columns of a split by the stack of plain rules, where it is wanted.

        A cold split takes the stack of rules that read model features instead, where there are any.
        """
        if self.hparams["prior"] != "stack" or (part.cold and not cold.side_features(bench).shape[1]):
            return
        chosen = {name: self.hparams[name] for name in ("criterion", "sharpness")}
        if part.cold:
            found = cold.stacked(bench, part.cold, **chosen)
            memory.cold = torch.tensor(found.scores.T.copy(), dtype=memory.values.dtype)
        else:
            found = (
                with_probes(bench, part, probes, **chosen)
                if probes
                else stacked(bench, part.train, part.test, hidden=hidden, **chosen)
            )
            memory.stack = torch.tensor(found.scores.T.copy(), dtype=memory.values.dtype)
        self.stack_weights = found.weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sizes beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["smap_shape"] = self.shape

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build networks of the recorded sizes before the weights arrive."""
        super().on_load_checkpoint(checkpoint)
        if self.net is None:
            self.build(checkpoint["smap_shape"])

    def make_optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with OneCycle over ``steps``."""
        assert self.net is not None
        h = self.hparams
        groups = self.net.groups()
        if self.graph_net is not None:
            groups.append({"params": list(self.graph_net.parameters()), "factor": 0.02})
        rates = [h["lr"] * float(g.pop("factor")) for g in groups]  # type: ignore[arg-type]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        optimizer = torch.optim.AdamW(groups, lr=h["lr"], weight_decay=h["weight_decay"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=max(steps, 2), cycle_momentum=False
        )
        return optimizer, schedule

    def configure_optimizers(self) -> Any:
        """AdamW and OneCycle over the whole run."""
        optimizer, schedule = self.make_optimizer(self._planned_steps() + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _planned_steps(self) -> int:
        """Optimiser steps of the run, counted without loaders (which would lose their place on resume)."""
        trainer, data = self.trainer, self.trainer.datamodule  # type: ignore[attr-defined]
        batches = math.ceil(len(data.train_columns) / data.batch_size)
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 1
        total = max(1, math.ceil(batches / trainer.accumulate_grad_batches)) * epochs
        return min(total, trainer.max_steps) if trainer.max_steps > 0 else total

    # -- steps ------------------------------------------------------------------------------------------------------

    def _embeddings(self, query: Query, graph: Any) -> tuple[Tensor, Tensor] | None:
        """Columns and models through the graph encoder; edges of the queried columns are taken out first."""
        if self.graph_net is None:
            return None
        pair: tuple[Tensor, Tensor] = self.graph_net(graph, query.columns)
        return pair

    def predict_query(self, query: Query, graph: Any = None, **hides: Tensor) -> Prediction:
        """The network on one query."""
        assert self.net is not None
        memory = query.memory
        if self.hparams["features"] == "none":
            memory = type(memory)(**{**vars(memory), "features": torch.zeros_like(memory.features)})
        found: Prediction = self.net(
            memory, query.columns, query.allowed, graph=self._embeddings(query, graph), **hides
        )
        return found

    def loss_terms(self, query: Query, seed: int, graph: Any = None) -> dict[str, Tensor]:
        """Terms of one training batch, with models and scenarios hidden at random."""
        h = self.hparams
        assert self.net is not None
        rows, scenarios = training_hides(
            seed, query.epoch, query.columns.cpu(), query.memory.models.shape[0], h["hide_models"], h["hide_scenario"]
        )
        device = query.columns.device
        found = self.predict_query(query, graph, hidden_models=rows.to(device), hidden_scenarios=scenarios.to(device))
        return objective(self.net, found, query, h["loss_weights"], h["temperature"], h["delta"])

    def _graph(self) -> Any:
        return None if self.graph_net is None else self.trainer.datamodule.graph.to(self.device)  # type: ignore[attr-defined]

    def training_step(self, batch: Query, batch_idx: int) -> Tensor:
        """The weighted loss of a batch of columns."""
        terms = self.loss_terms(batch, self.hparams["seed"], self._graph())
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=len(batch.columns))
        return terms["loss"]

    def _evaluate(self, batch: Query, metrics: AssignmentMetrics) -> Prediction:
        found = self.predict_query(batch, self._graph())
        metrics.update(torch.round(found.score.double(), decimals=9), batch.raw, batch.memory.group[batch.columns])
        return found

    def validation_step(self, batch: Query, batch_idx: int) -> None:
        """Score the validation groups, and the loss there (which moves where the order of models does not)."""
        found = self._evaluate(batch, self.val_metrics)
        h = self.hparams
        assert self.net is not None
        terms = objective(self.net, found, batch, h["loss_weights"], h["temperature"], h["delta"])
        self.log("val/loss", terms["loss"], batch_size=len(batch.columns))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation groups."""
        self._log("val", self.val_metrics)

    def test_step(self, batch: Query, batch_idx: int) -> None:
        """Score the fold left out; the first batch is drawn."""
        found = self._evaluate(batch, self.test_metrics)
        if batch_idx == 0:
            self.timed = self._time(batch)
            from septet.lightning_modules.smap.pictures import test_pictures

            data = self.trainer.datamodule  # type: ignore[attr-defined]
            for name, figure in test_pictures(data.bench, data.part, batch, found):
                self.save_picture(name, figure)

    def _time(self, batch: Query, warmup: int = 2, repeats: int = 10) -> dict[str, float]:
        """Milliseconds of scoring one batch: a test has too few batches for the clock of the house."""
        graph, times = self._graph(), []
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            self.predict_query(batch, graph)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(1e3 * (time.perf_counter() - start))
        p50, p95 = torch.quantile(torch.tensor(times[warmup:]), torch.tensor([0.5, 0.95])).tolist()
        return {"latency_ms_p50": round(p50, 4), "latency_ms_p95": round(p95, 4), "batch": len(batch.columns)}

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the fold."""
        self._log("test", self.test_metrics)

    def _log(self, stage: str, metrics: AssignmentMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value)
        metrics.reset()

    def predict_step(self, batch: Query, batch_idx: int) -> list[dict[str, Any]]:
        """Rows (column, rank, model, score, evidence) of the five best models per column."""
        bench = self.trainer.datamodule.bench  # type: ignore[attr-defined]
        found = self.predict_query(batch, self._graph())
        rows = []
        for q, j in enumerate(batch.columns.tolist()):
            weight = found.attention[:, q].mean(0)
            order = torch.argsort(torch.round(found.score[:, q].double(), decimals=9), stable=True)[:5]
            for rank, m in enumerate(order.tolist(), 1):
                held = torch.where(batch.memory.seen[:, m], weight, torch.zeros_like(weight))
                near = bench.columns[int(held.argmax())]
                rows.append({"column": bench.columns[j], "rank": rank, "model": bench.models[m],
                             "score": float(found.score[m, q]), "evidence": near})  # fmt: skip
        return rows

    def record_fields(self) -> dict[str, Any]:
        """What the run record says about the recommender."""
        count = sum(p.numel() for p in self.parameters())
        return {
            "model": {"name": "smap", "variant": self.hparams["encoder"], "family": "recommender", "params": count},
            "protocol": {"aggregation": "mean over groups", "ensemble": 1},
            "criteria": self.timed,
        }
