"""Baselines of dynamic link prediction on the same loaders and negatives."""

from septet.lightning_modules.cne_n.baselines.edgebank import EdgeBank

__all__ = ["EdgeBank"]
