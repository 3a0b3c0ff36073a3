"""The baselines under the Trainer, on the same loaders, negatives and metrics as CNE-N."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor

from septet.lightning_modules.cne_n.baselines.dygformer import DyGFormer
from septet.lightning_modules.cne_n.baselines.edgebank import EdgeBank
from septet.lightning_modules.cne_n.baselines.graphmixer import GraphMixer
from septet.lightning_modules.cne_n.baselines.tgn import TGN
from septet.lightning_modules.cne_n.links import LinkPrediction
from septet.lightning_modules.cne_n.model import binary_cross_entropy, parameter_count
from septet.lightning_modules.cne_n.settings import check_net
from septet.lightning_modules.cne_n.state import StreamStateCallback

NETS: dict[str, type[Any]] = {"graphmixer": GraphMixer, "dygformer": DyGFormer, "tgn": TGN}
LATEST = {"graphmixer": "tokens", "tgn": "neighbors"}
"""Setting that fixes the length of the sequences: one more, for the node itself."""


class LinkBaseline(LinkPrediction):
    """GraphMixer, DyGFormer or TGN with Adam.

    Args:
        name: ``graphmixer``, ``dygformer`` or ``tgn``.
        net: arguments of the network; TGN's ``num_nodes`` comes from the stream.
        lr: of Adam.

    Raises:
        ValueError: unknown name, ``lr`` not above 0, a setting of ``net`` that is none.
    """

    monitor: ClassVar[str] = "val/ap"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        name: Literal["graphmixer", "dygformer", "tgn"],
        net: dict[str, Any] = {},  # noqa: B006 - never changed
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        if name not in NETS:
            raise ValueError(f"unknown baseline {name!r}: choose one of {', '.join(NETS)}")
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr={lr} is not a finite number above 0")
        check_net(NETS[name], net, **({"num_nodes": 1} if name == "tgn" else {}))
        self.save_hyperparameters({"name": name, "net": dict(net), "lr": lr})
        self.baseline, self.net_args, self.lr = name, dict(net), lr
        self.net: Any = None
        self.stream_state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Compare the length of the sequences with what the network reads."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is None or self.baseline not in LATEST:
            return
        if self.baseline == "graphmixer" and data.stream.node_feat is not None:
            raise ValueError("GraphMixer on streams with node features is not served: their window is not in the batch")
        name = LATEST[self.baseline]
        wanted = 1 + self.net_args.get(name, inspect.signature(NETS[self.baseline]).parameters[name].default)
        if data.length != wanted:
            where = "length" if data.structure is None else "structure.length"
            raise ValueError(
                f"{self.baseline} with {wanted - 1} {name} reads sequences of {wanted}, the data module gives "
                f"{data.length}: set data.init_args.{where} to {wanted}"
            )

    def configure_model(self) -> None:
        """Build the network once; a memory is sized for the stream."""
        if self.net is None:
            extra = {"num_nodes": 1} if self.baseline == "tgn" else {}
            self.net = NETS[self.baseline](**extra, **self.net_args)
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(self.net, TGN) and data is not None and self.net.num_nodes != data.stream.nodes:
            self.net.resize(data.stream.nodes)

    def configure_callbacks(self) -> list[Callback]:
        """Models with state get its life cycle."""
        return [StreamStateCallback()] if self.baseline == "tgn" else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A learned state depends on all earlier weights, so it travels with them."""
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.net, TGN):
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            whole = done >= self.trainer.num_training_batches
            checkpoint["stream_state"] = {"state": self.net.snapshot(), "whole": bool(whole)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state until a stage begins."""
        super().on_load_checkpoint(checkpoint)
        self.stream_state = checkpoint.get("stream_state")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam without decay."""
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.lr)

    def score(self, batch: Any) -> Tensor:
        """Logits ``(B, 1+K)``."""
        logits: Tensor = self.net.score(batch, self.features)
        return logits

    def loss(self, logits: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return binary_cross_entropy(logits, "fixed")

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol of the run record."""
        size = {} if self.net is None else {"params": parameter_count(self.net)}
        return {"model": {"name": self.baseline, **size}, "protocol": self.protocol_fields()}


class EdgeBankBaseline(LinkPrediction):
    """EdgeBank as a module without weights: ``septet test`` only.

    Args:
        mode: see :class:`EdgeBank`.
        window_ratio: see :class:`EdgeBank`.
    """

    monitor: ClassVar[str] = "val/ap"
    mode: ClassVar[str] = "max"
    trainable: ClassVar[bool] = False

    def __init__(
        self,
        mode: Literal["unlimited", "time_window_fixed", "time_window_repeat", "repeat_threshold"] = "unlimited",
        window_ratio: float = 0.15,
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"mode": mode, "window_ratio": window_ratio})
        self.net = EdgeBank(mode, window_ratio)

    def setup(self, stage: str) -> None:
        """Refuse training.

        Raises:
            ValueError: ``septet fit``.
        """
        if stage == "fit":
            raise ValueError("EdgeBank is training-free: septet test -c configs/cne_n/edgebank_uci.yaml (or your own)")
        super().setup(stage)

    def configure_callbacks(self) -> list[Callback]:
        """The life cycle of the history."""
        return [StreamStateCallback()]

    def configure_optimizers(self) -> None:
        """Nothing to train."""
        return

    def score(self, batch: Any) -> Tensor:
        """0 or 1 per asked pair ``(B, 1+K)``."""
        return self.net.score(batch)

    def loss(self, logits: Tensor) -> Tensor:
        """EdgeBank has no loss.

        Raises:
            ValueError: always.
        """
        raise ValueError("EdgeBank is training-free: septet test -c CONFIG, not septet fit")

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol of the run record."""
        model = {"name": "edgebank", "variant": self.net.mode, "params": 0}
        return {"model": model, "protocol": self.protocol_fields()}
