"""Pearson-correlation distillation loss on feature maps (PKD, NeurIPS 2022, arXiv 2207.02039, section 3).

Per channel, over batch and space together, both maps are standardised and compared by half their mean squared
difference, which is ``(m - 1) / m * (1 - r)`` with the Pearson correlation ``r`` of ``m`` values.
"""

from septet.kernels.pearson.levels import pearson_loss, pearson_r, pkd_loss

__all__ = ["pearson_loss", "pearson_r", "pkd_loss"]
