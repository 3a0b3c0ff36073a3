"""``septet bench cne_n``: structure pass, writes, training, inference, scaling and negatives against the release."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.datamodules.temporal_graph import (
    EventStream,
    NegativeSampler,
    TemporalGraphEvents,
    dyglib_split,
    powerlaw_events,
    read_events,
    synthetic_events,
)
from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex, native, structure_pass
from septet.launch.bench import cne_n_mrr, cne_n_scale, cpu_seconds
from septet.launch.bench.cne_n_release import ReleaseNet, ReleasePath
from septet.lightning_modules.cne_n import CNEN

BATCH, LENGTH, LONG = 200, 10, 64


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows; CPU time of one thread unless a row says otherwise.

    Args:
        device: ``cpu`` or ``cuda``.
        quick: small sizes, one repetition.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if device.startswith("cuda"):
            return gpu(quick)
        stream = uci_or_synthetic(quick)
        return [
            *structure(stream, quick),
            *writes(quick),
            *training(stream, quick),
            *ranking(stream, quick),
            *negatives(stream, quick),
            *scaling(quick),
        ]
    finally:
        torch.set_num_threads(before)


def row(name: str, value: float, unit: str, **rest: Any) -> dict[str, Any]:
    """One figure; the ratio is ours over the peer's."""
    peer_value = rest.get("peer_value")
    base = {"peer": "", "peer_value": None, "limit": "", "note": ""}
    ratio = value / peer_value if peer_value else None
    return {"name": name, "value": round(value, 4), "unit": unit, **base, "ratio": ratio, **rest}


def uci_or_synthetic(quick: bool) -> EventStream:
    """UCI where the user has it, else the synthetic stream."""
    path = Path(os.environ.get("SEPTET_DATA", "data")) / "temporal_graph" / "uci.npz"
    return synthetic_events(600, 4000) if quick or not path.exists() else read_events(path)


def asked(stream: EventStream, events: int) -> tuple[Tensor, Tensor]:
    """Each event and one random negative, ``(E, 2)`` both."""
    g = torch.Generator().manual_seed(0)
    negative = stream.dst[torch.randint(0, len(stream), (events,), generator=g)]
    pair_dst = torch.stack([stream.dst[:events], negative], 1)
    return stream.src[:events].unsqueeze(1).expand_as(pair_dst).contiguous(), pair_dst


def structure(stream: EventStream, quick: bool) -> list[dict[str, Any]]:
    """B1: look up, encode and update, per link."""
    events, repeats = (1000, 1) if quick else (10_000, 5)
    columns = stream.src[:events], stream.dst[:events], stream.time[:events]
    query = asked(stream, events)
    release = ReleasePath(stream.src, stream.dst, stream.time, stream.nodes, LENGTH, LONG)

    def peer() -> None:
        for a in range(0, events, BATCH):
            at = slice(a, a + BATCH)
            release.structure(columns[0][at], columns[1][at], query[1][at, 1], columns[2][at])

    per_link = 1e6 / (2 * events)
    slow = cpu_seconds(peer, repeats) * per_link
    rows = []
    for backend in ["torch"] + ["native"] * native.available():
        index = TemporalNeighborIndex(
            stream.src, stream.dst, stream.time, num_nodes=stream.nodes,
            backend="torch" if backend == "torch" else "auto",
        )  # fmt: skip
        memory = HashNeighborMemory(stream.nodes, LONG, backend=backend)
        for granularity in ("timestamp", BATCH):

            def ours(g: Any = granularity, i: Any = index, m: Any = memory) -> None:
                structure_pass(m, i, *columns, *query, length=LENGTH, granularity=g)

            rows.append(
                row(
                    f"structure, {backend}, granularity {granularity}",
                    cpu_seconds(ours, repeats) * per_link, "us/link",
                    peer="release formula, batch 200", peer_value=slow, limit="torch <= 12, native <= 2",
                    note=f"L={LENGTH}, M={LONG}, {stream.nodes} nodes, {events} events of {stream.name}, CPU time",
                )
            )  # fmt: skip
    return rows


def writes(quick: bool) -> list[dict[str, Any]]:
    """B2: writes alone, batches of 200, full sequences."""
    events, repeats = (2000, 1) if quick else (20_000, 5)
    rows = []
    for nodes in (9_000,) if quick else (9_000, 1_000_000):
        g = torch.Generator().manual_seed(0)
        ends = torch.randint(1, nodes + 1, (2, events), generator=g)
        ids = torch.randint(1, nodes + 1, (2, events, LENGTH), generator=g)
        release = ReleasePath(ends[0, :1], ends[1, :1], torch.zeros(1, dtype=torch.int64), nodes, LENGTH, LONG)

        def batches(write: Callable[..., None], e: Tensor = ends, i: Tensor = ids) -> None:
            for a in range(0, events, BATCH):
                at = slice(a, a + BATCH)
                write(e[0, at], e[1, at], i[0, at], i[1, at])

        slow = events / cpu_seconds(lambda r=release: batches(r.write), repeats)  # type: ignore[misc]
        for backend in ["torch"] + ["native"] * native.available():
            memory = HashNeighborMemory(nodes, LONG, backend=backend)

            def ours(m: HashNeighborMemory = memory) -> None:
                batches(lambda u, v, s, d: m.update_unchecked(u, v, s, d, "event"))

            rows.append(
                row(
                    f"update, {backend}, {nodes} nodes", events / cpu_seconds(ours, repeats), "events/s",
                    peer="release formula", peer_value=slow, limit="native >= 1.5e6 at 9k nodes",
                    note="CPU time, 1 thread, deterministic; full sequences (80 slot writes an event)",
                )
            )  # fmt: skip
    return rows


def training(stream: EventStream, quick: bool) -> list[dict[str, Any]]:
    """B3, B4: training and inference per event, structure included; zero features on both sides."""
    events = 1000 if quick else 6000
    part = EventStream(stream.src[:events], stream.dst[:events], stream.time[:events], stream.nodes, name=stream.name)
    rows = []
    for batch in (BATCH,) if quick else (BATCH, 2000):
        train, infer = release_seconds(part, batch)
        ours_train, ours_infer = our_seconds(part, batch)
        note = f"{events} events of {stream.name}, 198,135 parameters, CPU time, 1 thread; the MLP bounds both"
        for name, value, peer in (("training", ours_train, train), ("inference", ours_infer, infer)):
            rows.append(
                row(
                    f"{name}, batch {batch}", 1e6 * value / events, "us/event", peer=f"release formula, batch {batch}",
                    peer_value=1e6 * peer / events, limit="ratio <= 0.5",
                    note=f"{events / value:,.0f} events/s against {events / peer:,.0f}; {note}",
                )
            )  # fmt: skip
    return rows


def ranking(stream: EventStream, quick: bool) -> list[dict[str, Any]]:
    """B4: an event against 20 negatives, CNE-N against DyGFormer at L = 32."""
    events, repeats = (20, 1) if quick else (100, 3)
    ours, theirs = cne_n_mrr.seconds(stream, events, repeats)
    note = f"last {events} events of {stream.name}, pass and look-up included, CPU time, 1 thread, untrained weights"
    return [
        row(
            "MRR with 20 negatives", events / ours, "events/s", peer="DyGFormer (ours, vectorised counts, L=32)",
            peer_value=events / theirs, limit="ratio >= 10", note=note,
        )
    ]  # fmt: skip


def release_seconds(stream: EventStream, batch: int) -> tuple[float, float]:
    """CPU seconds of one training epoch and one inference pass, the release's way."""
    torch.manual_seed(0)
    events = len(stream)
    _, pair_dst = asked(stream, events)
    net, tables = ReleaseNet(), (torch.zeros(stream.nodes + 1, 172), torch.zeros(events + 1, 172))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def epoch(train: bool) -> None:
        path = ReleasePath(stream.src, stream.dst, stream.time, stream.nodes, LENGTH, LONG)
        net.train(train)
        start.append(time.process_time())
        for a in range(0, events, batch):
            at = slice(a, a + batch)
            now = stream.time[at]
            with torch.set_grad_enabled(train):
                parts = path.structure(stream.src[at], stream.dst[at], pair_dst[at, 1], now)
                logits = torch.cat([net.logits(tables, now, p) for p in parts])
                if train:
                    target = torch.zeros_like(logits)
                    target[len(logits) // 2 :] = 1
                    loss = nn_bce(torch.sigmoid(logits), target)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()

    seconds = []
    for train in (True, False):
        start: list[float] = []
        epoch(train)
        seconds.append(time.process_time() - start[0])
    return seconds[0], seconds[1]


nn_bce = torch.nn.functional.binary_cross_entropy


def our_seconds(stream: EventStream, batch: int) -> tuple[float, float]:
    """CPU seconds of one training epoch and one inference pass: pass, look-up, network."""
    data = TemporalGraphEvents(batch_size=batch)
    data._read = lambda: stream  # type: ignore[method-assign]
    data.setup()
    data.splits = data.splits._replace(train=torch.arange(len(stream)))
    assert data.states is not None
    data.states.train, data.states.train_index, data.train_index = data.splits.train, data.full_index, data.full_index
    model = CNEN()
    model.configure_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    data.train_links(0)
    seconds = []
    for train in (True, False):
        model.train(train)
        start = time.process_time()
        links = data.train_links(1)
        with torch.set_grad_enabled(train):
            for at in torch.split(torch.arange(len(stream)), batch):
                logits = model.score(links.batch(at))
                if train:
                    loss = model.loss(logits)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        seconds.append(time.process_time() - start)
    return seconds[0], seconds[1]


def negatives(stream: EventStream, quick: bool) -> list[dict[str, Any]]:
    """B6: hard negatives per second against Python sets."""
    splits = dyglib_split(stream)
    at = splits.test[: 400 if quick else 2000]
    batch = stream.src[at], stream.dst[at], stream.time[at]
    rows = []
    for strategy in ("historical", "inductive"):
        speed = {}
        for compat in (False, True):
            sampler = NegativeSampler(
                stream.src, stream.dst, stream.time, strategy=strategy,  # type: ignore[arg-type]
                last_observed_time=float(stream.time[splits.val[-1]]), compat=compat,
            )  # fmt: skip
            if compat:
                sampler.sample(batch[0][:1], batch[1][:1], batch[2][:1])
            start = time.process_time()
            for a in range(0, len(at), BATCH):
                if compat and sampler._hard is not None:
                    sampler._hard.rewind()
                sampler.sample(*(c[a : a + BATCH] for c in batch))
            speed[compat] = len(at) / (time.process_time() - start)
        rows.append(
            row(
                f"{strategy} negatives", speed[False], "draws/s", peer="Python sets, built anew per batch",
                peer_value=speed[True], limit="ratio >= 20", note=f"{stream.name}, {len(at)} draws",
            )
        )  # fmt: skip
    return rows


def scaling(quick: bool) -> list[dict[str, Any]]:
    """B5: power-law streams mapped from disk; index build, structure pass with one negative, peak memory.

    Each size runs in a process of its own. 1e8 events are extrapolated here; ``python -m
    septet.launch.bench.cne_n_scale --nodes 10000000 --events 100000000`` runs them.
    """
    sizes = ((10_000, 20_000),) if quick else ((1_000_000, 2_000_000), (10_000_000, 10_000_000))
    rows = []
    for nodes, events in sizes:
        found = cne_n_scale.alone(nodes, events)
        note = f"{found['engine']} backend, 1 thread; measured on {events:,} mapped events, {nodes:,} nodes, wall"
        times = 1e8 / events
        for name, key, limit in (
            ("index build", "index", "60 s for 1e8"),
            ("structure pass", "pass", "20 min for 1e8"),
        ):
            seconds = found[f"{key}_cpu_s"]
            scaled = f"extrapolated to 1e8 events: {seconds * times:.0f} CPU s"
            rows.append(
                row(
                    f"{name}, {nodes:,} nodes", 1e6 * seconds / events, "us/event", limit=limit,
                    note=f"{note} {found[key + '_wall_s']:.1f} s; {scaled}",
                )
            )  # fmt: skip
        note = f"of a process alone, mapped columns included; {events:,} events"
        rows.append(row(f"peak memory, {nodes:,} nodes", found["pass_peak_gb"], "GB", limit="16", note=note))
    return rows


def gpu(quick: bool) -> list[dict[str, Any]]:
    """Structure pass with one negative on a GPU, wall time after synchronisation; sizes up to 1e8 events."""
    sizes = [(10_000, 65_536, 65_536)] if quick else [(1_000_000, 1_000_000, 1_000_000)]
    sizes += [] if quick else [(10_000_000, 100_000_000, 100_000_000)]
    rows = []
    for nodes, events, used in sizes:
        stream = powerlaw_events(nodes, events)
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        src, dst, now = (c.cuda() for c in (stream.src, stream.dst, stream.time))
        index = TemporalNeighborIndex(src, dst, now, num_nodes=nodes)
        torch.cuda.synchronize()
        note = f"{events:,} power-law events, {nodes:,} nodes"
        rows.append(
            row(f"index build, {nodes:,} nodes", time.perf_counter() - start, "s", note=f"{note}, copy included")
        )
        with torch.device("cuda"):
            memory = HashNeighborMemory(nodes, LONG)
        for granularity in ("timestamp", 65_536):
            seconds = gpu_pass(memory, index, (src, dst, now), used, granularity)
            name, limit = f"structure, granularity {granularity}, {nodes:,} nodes", "1e8 events in 180 s"
            rows.append(row(name, used / seconds, "events/s", limit=limit, note=f"{note}, {used:,} in {seconds:.1f} s"))
        peak = torch.cuda.max_memory_allocated() / 1e9
        rows.append(row(f"peak GPU memory, {nodes:,} nodes", peak, "GB", limit="24", note=note))
    return rows


def gpu_pass(
    memory: HashNeighborMemory, index: TemporalNeighborIndex, events: tuple[Tensor, ...], used: int, granularity: Any
) -> float:
    """Wall seconds of a pass over the last ``used`` events, in calls of 131,072, after one warm-up call."""
    src, dst, now = events
    for warm in (True, False):
        memory.reset()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for a in range(len(src) - used, len(src), 131_072):
            at = slice(a, a + 131_072)
            query = torch.stack([dst[at], dst[at].flip(0)], 1)
            asked_src = src[at].unsqueeze(1).expand_as(query).contiguous()
            structure_pass(
                memory, index, src[at], dst[at], now[at], asked_src, query, length=LENGTH, granularity=granularity
            )
            if warm:
                break
        torch.cuda.synchronize()
    return time.perf_counter() - start
