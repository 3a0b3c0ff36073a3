"""Rows of all processes, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Rows ``(W*N, ...)`` of all processes in rank order; the gradient flows back to each.

    A loss of the gathered rows is the same on every rank; its gradient reaches the own rows once per rank, so that
    DDP's mean over ranks equals the gradient of one process. Every rank must hold equally many rows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    if not rows.is_floating_point():
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    import torch.distributed.nn.functional as functional

    return torch.cat(list(functional.all_gather(rows.contiguous())))
