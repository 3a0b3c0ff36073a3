"""The seven methods, as a literal table of strings: nothing here imports a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        slug: written name, used in folders, run directories and on the command line.
        title: one line for people.
        paper: authors' title, venue and year.
        module: full class path of the LightningModule (of the strategy's module for fairkv).
        datamodule: full class path of the LightningDataModule.
        extra: the pip extra it needs beyond the core; "" if none.
        configs: shipped configurations, relative to the package's ``configs``.
    """

    slug: str
    title: str
    paper: str
    module: str
    datamodule: str
    extra: str
    configs: tuple[str, ...]


_ROWS = (
    Method(
        slug="cake",
        title="KV-cache eviction for long contexts",
        paper="CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, ICLR 2025",
        module="septet.lightning_modules.cake.LongContextModule",
        datamodule="septet.datamodules.long_context.LongContextText",
        extra="kv",
        configs=(
            "cake/smoke.yaml",
            "cake/tiny_recall.yaml",
            "cake/smollm2_ci.yaml",
            "cake/smollm2_needle.yaml",
        ),
    ),
    Method(
        slug="fairkv",
        title="balanced placement of attention heads and their KV caches on many GPUs",
        paper="FairKV: Balancing Per-Head KV Cache for Fast Multi-GPU Inference, 2025",
        module="septet.lightning_modules.cake.LongContextModule",
        datamodule="septet.datamodules.long_context.LongContextText",
        extra="kv",
        configs=(
            "fairkv/smoke_2proc.yaml",
            "fairkv/smollm2_2proc.yaml",
        ),
    ),
    Method(
        slug="drivingdojo",
        title="interactive driving world model and the action-following benchmark",
        paper="DrivingDojo Dataset: Advancing Interactive and Knowledge-Enriched Driving World Model, NeurIPS 2024",
        module="septet.lightning_modules.drivingdojo.WorldModel",
        datamodule="septet.datamodules.video.VideoClips",
        extra="video",
        configs=(
            "drivingdojo/smoke.yaml",
            "drivingdojo/sim_tiny.yaml",
        ),
    ),
    Method(
        slug="cne_n",
        title="dynamic link prediction on event streams by co-neighbour encoding",
        paper="Co-Neighbor Encoding Schema: A Light-cost Structure Encoding Method for Dynamic Link Prediction, "
        "KDD 2024",
        module="septet.lightning_modules.cne_n.CNEN",
        datamodule="septet.datamodules.temporal_graph.TemporalGraphEvents",
        extra="",
        configs=(
            "cne_n/smoke.yaml",
            "cne_n/synthetic.yaml",
            "cne_n/uci.yaml",
            "cne_n/uci_released.yaml",
            "cne_n/wikipedia.yaml",
        ),
    ),
    Method(
        slug="mscmnet",
        title="visible-infrared person re-identification",
        paper="MSCMNet: Multi-scale Semantic Correlation Mining for Visible-Infrared Person Re-Identification, PR 2024",
        module="septet.lightning_modules.mscmnet.MSCMNet",
        datamodule="septet.datamodules.reid.ReIDQuadrupleStreams",
        extra="reid",
        configs=(
            "mscmnet/smoke.yaml",
            "mscmnet/proof.yaml",
        ),
    ),
    Method(
        slug="smap",
        title="which model and data set for which scenario",
        paper="SMAP: scenario-based optimal model assignment (a declared reconstruction)",
        module="septet.lightning_modules.smap.SMAP",
        datamodule="septet.datamodules.scenarios.ScenarioGraph",
        extra="graph",
        configs=("smap/smoke.yaml",),
    ),
    Method(
        slug="pkd",
        title="detector distillation by Pearson correlation",
        paper="PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient, "
        "NeurIPS 2022",
        module="septet.lightning_modules.pkd.DetectionDistiller",
        datamodule="septet.datamodules.coco.COCODetection",
        extra="detection",
        configs=(
            "pkd/smoke.yaml",
            "pkd/bccd_pkd.yaml",
            "pkd/bccd_none.yaml",
            "pkd/own_teacher.yaml",
            "pkd/own_student.yaml",
        ),
    ),
)


def room(slug: str) -> str:
    """Folder of a method's README and ``paper.yaml`` under ``lightning_modules``."""
    return "strategies" if slug == "fairkv" else slug


METHODS: Mapping[str, Method] = MappingProxyType({row.slug: row for row in _ROWS})
