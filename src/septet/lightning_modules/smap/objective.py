"""The training loss of one batch of columns, shared by the LightningModule and by ``fit_predict``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.datamodules.scenarios.tensors import Query
from septet.lightning_modules.smap import losses
from septet.lightning_modules.smap.model import LATENCY_QUANTILES, QUANTILES, Prediction, RecallNet


def objective(
    net: RecallNet, found: Prediction, query: Query, weights: Sequence[float], temperature: float, delta: float
) -> dict[str, Tensor]:
    """Terms and weighted ``loss`` (specification, section 6).

    Args:
        net: for its mix of targets.
        found: prediction for ``query``.
        query: columns whose own results are the targets.
        weights: of list, bpr, pinball, latency, link.
        temperature: of the list and pair losses.
        delta: least difference of a pair.
    """
    memory, columns = query.memory, query.columns
    mask = memory.seen[columns].T
    z = memory.values[columns][..., 1].T
    latency = memory.latency[columns].T
    supports = memory.seen[columns].T
    terms = {
        "list": losses.listnet(found.score, z, mask, temperature),
        "bpr": losses.bpr(found.score, z, mask, delta, temperature),
        "pinball": losses.pinball(found.quantiles, z, list(QUANTILES), mask),
        "latency": losses.pinball(found.latency, latency, list(LATENCY_QUANTILES), torch.isfinite(latency)),
        "link": losses.link_bce(found.link, supports, torch.ones_like(supports)),
    }
    if memory.acceptance is not None:  # an extra head: it takes the weight of the links
        known = torch.isfinite(memory.acceptance)
        terms["link"] = terms["link"] + losses.pinball(found.acceptance[:, None], memory.acceptance, [0.5], known)
    terms["loss"] = torch.stack([w * t for w, t in zip(weights, terms.values(), strict=True)]).sum()
    return terms
