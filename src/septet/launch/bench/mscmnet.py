"""``septet bench mscmnet``: evaluation, trials, re-ranking, the centre loss, the loader, checkpoint, a GPU step."""

from __future__ import annotations

import io
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from septet.datamodules.reid.transforms import STREAMS, QuadAugmentation
from septet.kernels.ranking import SYSU, rank_features, rank_trials, rerank
from septet.launch.bench.mscmnet_release import PilQuadruples, evaluate_loop, qct_loop, rerank_loop
from septet.lightning_modules.mscmnet.losses import quadruple_center_triplet
from septet.lightning_modules.mscmnet.model import QuadStreamNet

QUERIES, POOL, PEOPLE = 3803, 6775, 96


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows; CPU time of one thread (``cpu``), or the wall time of a training step (``cuda``).

    Args:
        device: ``cpu`` or ``cuda``.
        quick: small sizes, one repetition.
    """
    if device.startswith("cuda"):
        from septet.launch.bench.mscmnet_gpu import training_steps

        return training_steps(quick)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*evaluation(quick), *trials(quick), *reranking(quick), *loss(quick), *loader(quick), *checkpoint(quick)]
    finally:
        torch.set_num_threads(before)


def row(name: str, value: float, unit: str, **rest: Any) -> dict[str, Any]:
    """One figure; the ratio is ours over the peer's."""
    peer_value = rest.get("peer_value")
    base = {"peer": "", "peer_value": None, "limit": "", "note": ""}
    ratio = value / peer_value if peer_value else None
    return {"name": name, "value": round(value, 5), "unit": unit, **base, "ratio": ratio, **rest}


Clock = Callable[[], float]


def seconds(work: Callable[[], Any], repeats: int, clock: Clock = time.process_time) -> float:
    """Median seconds after one call to warm up."""
    work()
    return once(work, repeats, clock)


def once(work: Callable[[], Any], repeats: int = 1, clock: Clock = time.process_time) -> float:
    """Median seconds; CPU time by default, which other processes on the machine do not stretch."""
    took = []
    for _ in range(repeats):
        start = clock()
        work()
        took.append(clock() - start)
    return statistics.median(took)


def test_set(width: int, queries: int, pool: int) -> dict[str, Any]:
    """Features and labels shaped like SYSU-MM01's test set: 40 of 96 identities lack cameras 1 and 2."""
    r = np.random.default_rng(0)
    proto = r.standard_normal((PEOPLE, width))
    qid, gid = np.sort(r.integers(0, PEOPLE, queries)), np.sort(r.integers(0, PEOPLE, pool))
    qcam = r.choice([3, 6], queries)
    gcam = np.where(gid < 56, r.choice([1, 2, 4, 5], pool), r.choice([4, 5], pool))
    sides = []
    for ids, shift in ((qid, 0.5), (gid, -0.5)):
        f = proto[ids] + shift + 1.6 * r.standard_normal((len(ids), width))
        sides.append(torch.from_numpy((f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float32)))
    return {"q": sides[0], "g": sides[1], "qid": qid, "gid": gid, "qcam": qcam, "gcam": gcam}


def drawn(data: dict[str, Any], shots: int, trial: int = 0) -> np.ndarray[Any, Any]:
    """Gallery indices: up to ``shots`` per identity and camera."""
    r = np.random.default_rng(trial)
    cell = data["gid"] * 10 + data["gcam"]
    return np.concatenate([r.permutation(np.flatnonzero(cell == c))[:shots] for c in np.unique(cell)])


def evaluation(quick: bool) -> list[dict[str, Any]]:
    """One evaluation of 3,803 queries at three gallery sizes, D = 128."""
    data = test_set(128, 300 if quick else QUERIES, 600 if quick else POOL)
    rows = []
    for shots, limit in ((POOL, "<= 1 s"), (10, "<= 0.5 s"), (1, "<= 0.3 s (stretch 0.15)")):
        at = drawn(data, shots)
        sides = data["q"], data["g"][at], data["qid"], data["gid"][at], data["qcam"], data["gcam"][at]

        def ours(s: Any = sides) -> Any:
            return rank_features(*s, protocol=SYSU)

        def peer(s: Any = sides) -> Any:
            return evaluate_loop(-(s[0] @ s[1].T).numpy(), *s[2:])

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took = seconds(ours, 1 if quick else 3)
        extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        slow = once(peer)
        name = f"evaluate {len(data['q'])} x {len(at)}"
        note = "CPU time, D 128, one thread; peer: full matrix, argsort, Python loop over queries"
        rows.append(row(name, took, "s", peer="published loop", peer_value=slow, limit=limit, note=note))
        if shots == POOL:
            rows.append(row(f"{name}, extra memory", extra, "MB", limit="<= 100 MB", note="rise of the peak RSS"))
    return rows


def trials(quick: bool) -> list[dict[str, Any]]:
    """Ten single-shot trials of pool and bn features, D = 2048, sharing the products."""
    data = test_set(256 if quick else 2048, 300 if quick else QUERIES, 600 if quick else POOL)
    galleries = [drawn(data, 1, t) for t in range(10)]
    used = np.unique(np.concatenate(galleries))
    places = [np.searchsorted(used, g) for g in galleries]
    sides = data["q"], data["g"][used], data["qid"], data["gid"][used], data["qcam"], data["gcam"][used]

    def ours() -> None:
        for _ in ("pool", "bn"):
            rank_trials(*sides, places, protocol=SYSU)

    def peer() -> None:
        s = data["q"], data["g"][galleries[0]], data["qid"], data["gid"][galleries[0]]
        evaluate_loop(-(s[0] @ s[1].T).numpy(), *s[2:], data["qcam"], data["gcam"][galleries[0]])

    took = seconds(ours, 1)
    note = f"CPU time, one thread, {len(used)} gallery images together; peer: one evaluation measured, times 20"
    slow = 20 * once(peer)
    return [row("ten trials, pool + bn", took, "s", peer="published loop", peer_value=slow, limit="<= 3 s", note=note)]


def reranking(quick: bool) -> list[dict[str, Any]]:
    """k-reciprocal re-ranking of 3,803 + 301 images."""
    data = test_set(128, 200 if quick else QUERIES, 600 if quick else POOL)
    gallery = data["g"][drawn(data, 1)]
    took = once(lambda: rerank(data["q"], gallery), 1 if quick else 3)
    slow = once(lambda: rerank_loop(data["q"].numpy(), gallery.numpy()))
    name = f"re-ranking {len(data['q'])} + {len(gallery)}"
    return [
        row(
            name,
            took,
            "s",
            peer="numpy loops",
            peer_value=slow,
            limit="<= 2 s",
            note="CPU time, k1 20, k2 6, one thread",
        )
    ]


def loss(quick: bool) -> list[dict[str, Any]]:
    """QCT forward and backward, 96 x 2048."""
    features = torch.randn(96, 2048, requires_grad=True)
    labels = torch.arange(6).repeat_interleave(4).repeat(4)
    repeats = 3 if quick else 30
    took = seconds(lambda: quadruple_center_triplet(features, labels).backward(), repeats)
    slow = seconds(lambda: qct_loop(features, labels).backward(), 3)
    return [
        row("QCT forward + backward", 1e3 * took, "ms", peer="loops over rows and classes", peer_value=1e3 * slow,
            limit="<= 4 ms", note="CPU time, 96 x 2048, one thread")
    ]  # fmt: skip


def loader(quick: bool) -> list[dict[str, Any]]:
    """Four augmented streams from decoded uint8 images, one process; ours, ours without numba and PIL in turns."""
    size, count, rounds = (384, 192), 8 if quick else 48, 1 if quick else 7
    r = np.random.default_rng(0)
    visible, infrared = r.integers(0, 256, (2, count, *size, 3), dtype=np.uint8)
    sides = {"visible": list(visible), "infrared": list(infrared)}
    chunks = [list(range(first, min(first + 24, count))) for first in range(0, count, 24)]

    def ours(compiled: bool, epoch: int) -> None:
        augment = QuadAugmentation(0, compiled=compiled)
        for places in chunks:
            for side, names in (("visible", STREAMS[:2]), ("infrared", STREAMS[2:])):
                augment.streams([sides[side][i] for i in places], names, epoch, places)

    pil = PilQuadruples(size)

    def peer() -> None:
        for places in chunks:
            rows = [pil(visible[i], infrared[i]) for i in places]
            [torch.stack(stream) for stream in zip(*rows, strict=True)]

    names = {"loader, four streams": True, "loader, four streams, without numba": False}
    took: dict[str, list[float]] = {name: [] for name in (*names, "peer")}
    for epoch in range(rounds + 1):  # the first round warms up
        for name, compiled in names.items():
            took[name].append(once(partial(ours, compiled, epoch)))
        took["peer"].append(once(peer))
    rate = {name: count / statistics.median(values[1:]) for name, values in took.items()}
    note = "CPU time, 384 x 192, one process and thread, measured in turns"
    shared: dict[str, Any] = {"peer": "PIL and torchvision per image", "peer_value": rate["peer"], "note": note}
    return [row(name, rate[name], "quadruples/s", limit="ratio >= 4", **shared) for name in names]


def checkpoint(quick: bool) -> list[dict[str, Any]]:
    """Bytes of the clean state of the full network."""
    buffer = io.BytesIO()
    torch.save(QuadStreamNet(395).state_dict(), buffer)
    note = "weights only, 395 classes; the published file is 627 MB (specification, not measured here)"
    return [row("state of the network", buffer.tell() / 1e6, "MB", limit="<= 175 MB", note=note)]
