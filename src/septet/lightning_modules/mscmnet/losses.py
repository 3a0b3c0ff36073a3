"""Losses of visible-infrared re-identification (MSCMNet, arXiv 2311.14395; AGW; hetero-centre).

All return a scalar, take features as given (not normalised) and compute in at least float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6
"""Distances are roots of squares clamped at 1e-12."""


def quadruple_center_triplet(
    features: Tensor, labels: Tensor, *, streams: Tensor | None = None, margin: float = 0.7, alpha: float = 0.0
) -> Tensor:
    """Quadruple-stream centre triplet, 1/2 [(1-alpha) L_pos + alpha L_intra + L_neg].

    L_pos pulls every row to its class' centre in the other modality, L_intra to the centre in its own stream, L_neg
    pushes it ``margin`` away from the other classes' centres over all streams. Centres are differentiable means of
    the batch. At ``alpha`` 0 the intra term is left out; a distance of 0 has gradient 0.

    Args:
        features: ``(4N, D)`` in the order V, V', I, I' unless ``streams`` is given.
        labels: ``(4N,)`` integers.
        streams: ``(4N,)`` in 0..3 = V, V', I, I'; None = four equal quarters with equal labels.
        margin: rho.
        alpha: weight of the intra-stream term, 0 in the released code.

    Raises:
        ValueError: rows no multiple of 4, labels that differ between quarters, one class only, a class missing in a
            stream, ``alpha`` outside 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha={alpha} is outside 0..1")
    streams = _quarters(labels) if streams is None else streams
    x = _wide(features)
    classes, y = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"the batch holds {len(classes)} class: the centre loss needs at least two (p >= 2)")
    _every_stream(torch.bincount(y * 4 + streams, minlength=4 * len(classes)), classes)
    groups = [(y, len(classes)), (y * 2 + streams // 2, 2 * len(classes))]
    groups += [(y * 4 + streams, 4 * len(classes))] if alpha > 0 else []
    members = [F.one_hot(index, size).to(x.dtype) for index, size in groups]
    means = torch.cat([m / m.sum(0) for m in members], 1).T @ x
    whole, by_modality, *by_stream = means.split([size for _, size in groups])
    other = members[1].view(-1, len(classes), 2).flip(2).flatten(1) @ by_modality
    total = (1 - alpha) * torch.linalg.vector_norm(x - other, dim=1).mean() + _push(x, whole, y, margin)
    if alpha > 0:
        total = total + alpha * torch.linalg.vector_norm(x - members[2] @ by_stream[0], dim=1).mean()
    loss: Tensor = total / 2
    return loss


def _quarters(labels: Tensor) -> Tensor:
    """Stream numbers of four equal quarters."""
    if len(labels) % 4:
        raise ValueError(f"{len(labels)} rows are no multiple of 4: give equal quarters V, V', I, I', or `streams`")
    quarter = labels.view(4, -1)
    if not bool((quarter == quarter[0]).all()):
        row = int((quarter != quarter[0]).any(0).nonzero()[0])
        raise ValueError(
            f"labels differ between the quarters at row {row}: {quarter[:, row].tolist()}; order the rows of the four "
            "streams alike, or give `streams`"
        )
    return torch.arange(4, device=labels.device).repeat_interleave(len(labels) // 4)


def _every_stream(count: Tensor, classes: Tensor) -> None:
    missing = (count == 0).nonzero().flatten()
    if len(missing):
        label, stream = int(classes[missing[0] // 4]), int(missing[0]) % 4
        raise ValueError(
            f"class {label} has no row in stream {stream} (0..3 = V, V', I, I'): every class must be there"
        )


def _push(x: Tensor, centers: Tensor, y: Tensor, margin: float) -> Tensor:
    """Mean over rows and other classes of max(0, margin - distance to the centre)."""
    distance = _distances(x, centers)
    other = F.one_hot(y, len(centers)) == 0
    return ((margin - distance).clamp_min(0) * other).sum() / (len(x) * (len(centers) - 1))


def batch_hard_triplet(features: Tensor, labels: Tensor, *, margin: float = 0.3) -> Tensor:
    """Mean of max(0, margin + farthest positive - nearest negative); a row is a positive of itself."""
    x = _wide(features)
    same = _same(labels)
    distance = _distances(x, x)
    positive = distance.masked_fill(~same, float("-inf")).amax(1)
    negative = distance.masked_fill(same, float("inf")).amin(1)
    return (margin + positive - negative).clamp_min(0).mean()


def weighted_regularized_triplet(
    features: Tensor, labels: Tensor, *, normalize: bool = False, stable: bool = False
) -> Tensor:
    """Weighted regularised triplet of AGW: mean softplus(D+ - D-).

    D+ weighs positives by e^(d-max), D- negatives by e^(-d); both sums carry the released 1e-6, which is not rescaled:
    the negatives fade out at large distances. ``stable`` is the exact softmax instead.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        normalize: L2-normalise rows first.
        stable: exact softmax over positives and negatives.
    """
    x = _wide(features)
    if normalize:
        x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-12)
    same = _same(labels)
    distance = _distances(x, x)
    far, near = distance.masked_fill(~same, float("-inf")), (-distance).masked_fill(same, float("-inf"))
    if stable:
        pull, push = far.softmax(1), near.softmax(1)
    else:
        pull = (far - far.detach().amax(1, keepdim=True)).exp()
        push = near.exp()
        pull, push = (w / (w.sum(1, keepdim=True) + 1e-6) for w in (pull, push))
    return F.softplus((pull * distance).sum(1) - (push * distance).sum(1)).mean()


def hetero_center_triplet(features: Tensor, labels: Tensor, *, margin: float = 0.7) -> Tensor:
    """Hetero-centre triplet: rows to their own centre, centres ``margin`` apart; equal rows per class."""
    x = _wide(features)
    classes, y = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"the batch holds {len(classes)} class: the centre loss needs at least two (p >= 2)")
    member = F.one_hot(y, len(classes)).to(x.dtype)
    centers = (member.T @ x) / member.sum(0)[:, None]
    pull = torch.linalg.vector_norm(x - centers[y], dim=1).mean()
    push = _push(centers, centers, torch.arange(len(classes), device=x.device), margin)
    loss: Tensor = (pull + push) / 2
    return loss


def kl_align(p: Tensor, q: Tensor, *, dim: int = 1) -> Tensor:
    """Kullback-Leibler divergence of softmaxes over ``dim``, summed over dimension 1, mean over the rest.

    The sum runs over dimension 1 whatever ``dim`` is, as released.
    """
    log_p, log_q = _wide(p).log_softmax(dim), _wide(q).log_softmax(dim)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _same(labels: Tensor) -> Tensor:
    """Mask ``(N, N)`` of equal labels; at least two classes."""
    same = labels[:, None] == labels[None]
    if bool(same.all()):
        raise ValueError("the batch holds one class: a triplet needs at least two (p >= 2)")
    return same


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances ``(N, M)`` of differences, at least 1e-6; gradient 0 there."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(EPSILON)
