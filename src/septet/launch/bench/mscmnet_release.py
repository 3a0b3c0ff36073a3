"""The published way of computing, re-created for timing: Python loops over queries, rows and classes; PIL per image."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any


def evaluate_loop(distance: Array, qid: Array, gid: Array, qcam: Array, gcam: Array) -> tuple[float, float]:
    """Rank-1 and mAP under the camera 3 / camera 2 rule: full matrix, argsort, one query at a time."""
    order = np.argsort(distance, axis=1)
    hits, precisions, valid = 0, [], 0
    for q in range(len(distance)):
        row = order[q]
        kept = row[~((qcam[q] == 3) & (gcam[row] == 2))]
        ids = gid[kept]
        matches = ids == qid[q]
        if not matches.any():
            continue
        valid += 1
        _, first = np.unique(ids, return_index=True)
        unique = ids[np.sort(first)]
        hits += int(unique[0] == qid[q])
        running = matches.cumsum()
        precisions.append((running / np.arange(1, len(matches) + 1) * matches).sum() / matches.sum())
    return hits / valid, float(np.mean(precisions))


def qct_loop(features: Tensor, labels: Tensor, margin: float = 0.7) -> Tensor:
    """The quadruple-stream centre loss by loops over rows and classes."""
    n = len(labels) // 4
    streams = torch.arange(4).repeat_interleave(n)
    classes = labels.unique()
    pull, push = [], []
    whole = {int(c): features[labels == c].mean(0) for c in classes}
    for i in range(len(labels)):
        other = (labels == labels[i]) & ((streams < 2) != (streams[i] < 2))
        pull.append(((features[i] - features[other].mean(0)) ** 2).sum().sqrt())
        for c in classes:
            if c != labels[i]:
                distance = ((features[i] - whole[int(c)]) ** 2).sum().clamp(min=1e-12).sqrt()
                push.append((margin - distance).clamp(min=0))
    return (torch.stack(pull).mean() + torch.stack(push).mean()) / 2


def rerank_loop(query: Array, gallery: Array, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Array:
    """k-reciprocal re-ranking with a dense encoding, one image at a time."""
    features = np.concatenate([query, gallery]).astype(np.float32)
    norms = (features**2).sum(1)
    original = norms[:, None] + norms[None] - 2 * features @ features.T
    original = original / original.max(1, keepdims=True)
    rank = np.argsort(original, axis=1)
    count, queries, half = len(features), len(query), int(np.around(k1 / 2))
    encoding = np.zeros_like(original)

    def reciprocal(i: int, k: int) -> Array:
        forward = rank[i, : k + 1]
        return forward[(rank[forward, : k + 1] == i).any(1)]

    for i in range(count):
        base = reciprocal(i, k1)
        expanded = base
        for j in base:
            candidate = reciprocal(int(j), half)
            if len(np.intersect1d(candidate, base)) > 2 / 3 * len(candidate):
                expanded = np.append(expanded, candidate)
        expanded = np.unique(expanded)
        value = np.exp(-original[i, expanded])
        encoding[i, expanded] = value / value.sum()
    if k2 > 1:
        encoding = np.stack([encoding[rank[i, :k2]].mean(0) for i in range(count)])
    holders = [np.flatnonzero(encoding[:, i]) for i in range(count)]
    jaccard = np.zeros((queries, count), np.float32)
    for i in range(queries):
        shared = np.zeros(count, np.float32)
        for j in np.flatnonzero(encoding[i]):
            shared[holders[j]] += np.minimum(encoding[i, j], encoding[holders[j], j])
        jaccard[i] = 1 - shared / (2 - shared)
    return ((1 - weight) * jaccard + weight * original[:queries])[:, queries:]


class PilQuadruples:
    """Four streams per image with PIL and torchvision, as published."""

    def __init__(self, size: tuple[int, int]) -> None:
        from torchvision import transforms as t

        finish = [t.ToTensor(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        crop = [t.Pad(10), t.RandomCrop(size), t.RandomHorizontalFlip()]
        start = t.ToPILImage()
        self.streams = [
            t.Compose([start, t.RandomGrayscale(0.5), *crop, *finish]),
            t.Compose([start, *crop, *finish]),
            t.Compose([start, *crop, *finish]),
            t.Compose([start, t.ColorJitter(brightness=0.5), *crop, *finish]),
        ]

    def __call__(self, visible: Array, infrared: Array) -> list[Tensor]:
        """The four tensors ``(3, H, W)`` of one pair."""
        out = [f(image) for f, image in zip(self.streams, (visible, visible, infrared, infrared), strict=True)]
        for image in out:
            self._erase(image)
        k = random.randint(0, 2)
        out[1] = out[1][k].expand(3, -1, -1).clone()
        if random.randint(0, 1) == 0:
            out[2] = out[2][1].expand(3, -1, -1).clone()
        if random.random() < 0.5:
            out[3] = out[3] * (2 * torch.empty(3, 1, 1).uniform_(0.01, 0.5))
        return out

    @staticmethod
    def _erase(image: Tensor) -> None:
        if random.random() > 0.5:
            return
        height, width = image.shape[1:]
        for _ in range(100):
            area, aspect = random.uniform(0.02, 0.4) * height * width, random.uniform(0.3, 1 / 0.3)
            h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if w < width and h < height:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                for c, fill in enumerate((0.4914, 0.4822, 0.4465)):
                    image[c, top : top + h, left : left + w] = fill
                return
