"""Baselines of dynamic link prediction on the same loaders and negatives."""

from septet.lightning_modules.cne_n.baselines.dygformer import DyGFormer
from septet.lightning_modules.cne_n.baselines.edgebank import EdgeBank
from septet.lightning_modules.cne_n.baselines.graphmixer import GraphMixer
from septet.lightning_modules.cne_n.baselines.module import EdgeBankBaseline, LinkBaseline
from septet.lightning_modules.cne_n.baselines.tgn import TGN

__all__ = ["TGN", "DyGFormer", "EdgeBank", "EdgeBankBaseline", "GraphMixer", "LinkBaseline"]
