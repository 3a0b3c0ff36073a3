"""CNE-N as a LightningModule: loss, metrics and pictures around :class:`CNENet`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from septet.lightning_modules.cne_n.links import LinkPrediction
from septet.lightning_modules.cne_n.model import CNENet, binary_cross_entropy, parameter_count
from septet.lightning_modules.cne_n.settings import check_net

if TYPE_CHECKING:
    from septet.kernels.hashing import NodeSequence

POOL: dict[str, Literal["masked", "all"]] = {"fixed": "masked", "released": "all"}
CPU_LINKS, GPU_LINKS = 400, 16_384
"""Links scored at once: on a CPU their activations stay in its cache, on a GPU they fit into memory."""


class CNEN(LinkPrediction):
    """Co-neighbour encoding for dynamic link prediction (KDD 2024, arXiv 2407.20871).

    The hash memory, its padding, granularity and write order belong to the data module (``StructureSpec``); this half
    of a preset fixes pooling and loss. A ``released`` half beside a ``fixed`` one is legal (ablation) and warned about.

    Args:
        preset: ``fixed`` (mean over filled positions, loss on logits) or ``released`` (parity with the official code).
        net: arguments of :class:`CNENet` except ``pool``.
        lr: of Adam, no weight decay.
        structure: ``full``, ``indicator`` (only the contact feature) or ``none``: the ablations.

    Raises:
        ValueError: unknown ``preset`` or ``structure``, ``lr`` not above 0, ``pool`` inside ``net``.
    """

    monitor: ClassVar[str] = "val/ap"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        preset: Literal["fixed", "released"] = "fixed",
        net: dict[str, Any] = {},  # noqa: B006 - never changed
        lr: float = 1e-4,
        structure: Literal["full", "indicator", "none"] = "full",
    ) -> None:
        super().__init__()
        if preset not in POOL:
            raise ValueError(f"unknown preset {preset!r}: choose 'fixed' or 'released'")
        if structure not in ("full", "indicator", "none"):
            raise ValueError(f"unknown structure {structure!r}: choose 'full', 'indicator' or 'none'")
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr={lr} is not a finite number above 0")
        if "pool" in net:
            raise ValueError("net.pool is fixed by the preset: choose preset 'fixed' or 'released'")
        check_net(CNENet, net, pool=POOL[preset])
        self.save_hyperparameters({"preset": preset, "net": dict(net), "lr": lr, "structure": structure})
        self.preset, self.net_args, self.lr, self.structure = preset, dict(net), lr, structure
        self.net: CNENet | None = None

    def configure_model(self) -> None:
        """Build the network once."""
        if self.net is None:
            self.net = CNENet(**self.net_args, pool=POOL[self.preset])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam without decay."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def loss(self, logits: Tensor) -> Tensor:
        """Binary cross-entropy of links ``(B, 1+K)``."""
        return binary_cross_entropy(logits, self.preset)

    def setup(self, stage: str) -> None:
        """Compare this half of the preset with the data module's."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        spec = getattr(data, "structure", None)
        if spec is None:
            raise ValueError("CNE-N reads structure features: give data.init_args.structure (not null)")
        halves = spec.halves()
        if stage == "fit" and "released" in (self.preset, halves):
            other = "as published, for parity only" if self.preset == halves else f"beside a data half {halves!r}"
            warnings.warn(f"training with preset {self.preset!r} {other}", UserWarning, stacklevel=2)

    def score(self, batch: Any) -> Tensor:
        """Logits ``(B, 1+K)`` of a batch of links, some rows at a time (pool ``all``: column by column, whole)."""
        assert self.net is not None
        rows, columns = batch.pair_src.shape
        everything = slice(0, rows), slice(0, columns)
        if self.net.pool == "all":
            return torch.cat([self._piece(batch, everything[0], slice(c, c + 1)) for c in range(columns)], 1)
        links = CPU_LINKS if batch.pair_src.device.type == "cpu" else GPU_LINKS
        step = max(1, links // columns)
        return torch.cat([self._piece(batch, slice(r, r + step), everything[1]) for r in range(0, rows, step)])

    def _piece(self, batch: Any, rows: slice, columns: slice) -> Tensor:
        """Logits ``(R, C)`` of some rows and columns of asked pairs."""
        assert self.net is not None
        time = batch.time[rows]
        src = self._embed(time, batch.src, batch.src_feat, rows, columns)
        dst = self._embed(time, batch.dst, batch.dst_feat, rows, columns)
        logits: Tensor = self.net(src, dst)
        return logits.view(len(time), -1)

    def _embed(self, time: Tensor, sequence: NodeSequence, features: Tensor, rows: slice, columns: slice) -> Tensor:
        """Embeddings ``(R*C, Fn)`` of one side."""
        assert self.net is not None
        ids, then, edges, count = (a[rows, columns].flatten(0, 1) for a in sequence)
        now = time.repeat_interleave(len(ids) // len(time)).unsqueeze(1)
        delta = ((now - then) * (ids != 0)).to(torch.float32)
        node, edge = self.features.lookup(ids, edges, self.net.node_dim, self.net.edge_dim)
        return self.net.embed(node, edge, delta, self._ablated(features[rows, columns].flatten(0, 1)), count)

    def _ablated(self, features: Tensor) -> Tensor:
        """Structure features with the parts removed that the ablation forbids."""
        if self.structure == "full":
            return features
        kept = torch.zeros_like(features)
        if self.structure == "indicator":
            kept[..., 4] = features[..., 4]
        return kept

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol of the run record."""
        model = {"name": "cne_n", "variant": self.preset, "structure": self.structure}
        size = {} if self.net is None else {"params": parameter_count(self.net)}
        return {"model": {**model, **size}, "protocol": self.protocol_fields()}
