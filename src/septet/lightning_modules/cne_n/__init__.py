"""CNE-N: co-neighbour encoding for dynamic link prediction (KDD 2024)."""

from septet.lightning_modules.cne_n.module import CNEN

__all__ = ["CNEN"]
