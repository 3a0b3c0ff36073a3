"""The readable specification of the loss: plain autograd, any floating dtype."""

import torch
from torch import Tensor


def standardise(maps: Tensor, eps: float) -> Tensor:
    """Subtract the channel mean and divide by (unbiased standard deviation + eps).

    Args:
        maps: ``(N, C, H, W)``.
        eps: added to the standard deviation, not inside its root.

    Returns:
        Standardised maps ``(N, C, H, W)``; statistics run over N, H and W together.
    """
    std, mean = torch.std_mean(maps, dim=(0, 2, 3), keepdim=True)
    return (maps - mean) / (std + eps)


def reference_loss(student: Tensor, teacher: Tensor, eps: float, min_std: float) -> Tensor:
    """Half the mean squared difference of the standardised maps (equation 5 of the paper).

    Args:
        student: ``(N, C, H, W)``, float32 or float64.
        teacher: the same shape and dtype; receives no gradient.
        eps: see :func:`standardise`.
        min_std: student channels with a smaller standard deviation count as 0 (and stay in the mean).

    Returns:
        The loss, a scalar.
    """
    difference = standardise(student, eps) - standardise(teacher.detach(), eps)
    if min_std > 0:
        dead = student.detach().std(dim=(0, 2, 3), keepdim=True) < min_std
        difference = difference.masked_fill(dead, 0.0)
    return 0.5 * difference.square().mean()
