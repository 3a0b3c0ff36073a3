"""What an evaluation needs: query and gallery images, and every gallery drawn from them as index lists."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from septet.datamodules.reid.readers import LLCM, SYSUMM01, RegDB, Sample
from septet.kernels import ranking

PROTOCOLS = {p.name: p for p in (ranking.SYSU, ranking.REGDB, ranking.LLCM, ranking.LLCM_STRICT)}


@dataclass(frozen=True)
class EvaluationSet:
    """Images of an evaluation and its protocol settings.

    Attributes:
        query: query images.
        pool: gallery images; features are extracted once for all of them.
        protocol: name among sysu, regdb, llcm, llcm_strict.
        galleries: per setting, trials as lists of indices into ``pool``; the first setting is the reported one.
        prefix: of the samples' paths in what is written for people.
    """

    query: list[Sample]
    pool: list[Sample]
    protocol: str
    galleries: dict[str, list[list[int]]] = field(default_factory=dict)
    prefix: str = ""

    @property
    def primary(self) -> str:
        """Name of the reported setting."""
        return next(iter(self.galleries))

    def left_out(self) -> int:
        """Queries whose identity has no image in the reported gallery (first trial) that the protocol lets count."""
        cells = Counter((s.pid, s.cam) for s in self.query)
        present = sorted({(self.pool[n].pid, self.pool[n].cam) for n in self.galleries[self.primary][0]})
        query, gallery = (torch.tensor(list(side)).reshape(-1, 2).T for side in (cells, present))
        match = query[0][:, None] == gallery[0][None]
        match &= ~PROTOCOLS[self.protocol].excluded(query[0], query[1], gallery[0], gallery[1])
        return sum(n for n, found in zip(cells.values(), match.any(1).tolist(), strict=True) if not found)


def sysu_evaluation(data: SYSUMM01, part: str, mode: str, shots: int, family: str, every: bool) -> EvaluationSet:
    """SYSU-MM01: ten trials of the asked setting, and with ``every`` of {all, indoor} x {1, 10} shots."""
    pool = data.pool("all", part)
    place = {s.path: n for n, s in enumerate(pool)}
    settings = [(mode, shots)]
    if every:
        settings += [(m, s) for m in ("all", "indoor") for s in (1, 10) if (m, s) != (mode, shots)]
    galleries: dict[str, list[list[int]]] = {}
    for m, s in settings:
        trials = [data.gallery(m, t, shots=s, family=family, part=part) for t in range(10)]
        galleries[f"{m}_{s}shot"] = [[place[x.path] for x in trial] for trial in trials]
    return EvaluationSet(data.query(mode, part), pool, "sysu", galleries)


def regdb_evaluation(data: RegDB, direction: Any) -> EvaluationSet:
    """RegDB: all images of one modality against all of the other."""
    gallery = data.gallery(direction)
    return EvaluationSet(data.query(direction), gallery, "regdb", {direction: [list(range(len(gallery)))]})


def llcm_evaluation(data: LLCM, direction: Any, strict: bool) -> EvaluationSet:
    """LLCM: ten seeded trials, one image per identity and camera."""
    pool = data.pool(direction)
    place = {s.path: n for n, s in enumerate(pool)}
    trials = [[place[x.path] for x in data.gallery(direction, t)] for t in range(10)]
    return EvaluationSet(data.query(direction), pool, "llcm_strict" if strict else "llcm", {direction: trials})


def held_out(train: list[Sample], other: list[Sample], direction: str, protocol: str) -> EvaluationSet:
    """Validation from training identities that are left out of training, for sets without validation identities."""
    infrared_first = direction == "infrared_to_visible"
    query, pool = (other, train) if infrared_first else (train, other)
    trials = [list(range(len(pool)))]
    if protocol != "regdb":
        cells: dict[tuple[int, int], list[int]] = {}
        for n, s in enumerate(pool):
            cells.setdefault((s.pid, s.cam), []).append(n)
        trials = []
        for t in range(10):
            rng = random.Random(t)
            trials.append([rng.choice(cells[c]) for c in sorted(cells)])
    return EvaluationSet(query, pool, protocol, {direction: trials})
