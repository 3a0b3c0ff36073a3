"""Seeded synthetic streams: a social one with closure and bursts, and a vectorised power-law one for speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from septet.datamodules.temporal_graph.events import EventStream

RECENT = 20
"""Partners that a node remembers."""


@dataclass
class Rates:
    """Rates of :func:`synthetic_events`.

    Attributes:
        communities: number of communities.
        activity: exponent of the Pareto activity.
        present: share of the nodes present at the start.
        joined: share of the events after which every node is present.
        burst: probability that an end of the last event acts again.
        burst_gap: mean gap of a burst in seconds.
        gap: median gap otherwise in seconds.
        gap_sigma: sigma of the log-normal gap.
        repeat: probability to meet a recent partner again.
        closure: probability to meet a recent partner's recent partner.
        community: probability to meet a node of the own community.
    """

    communities: int = 30
    activity: float = 1.5
    present: float = 0.25
    joined: float = 0.8
    burst: float = 0.35
    burst_gap: float = 5.0
    gap: float = 60.0
    gap_sigma: float = 1.5
    repeat: float = 0.25
    closure: float = 0.45
    community: float = 0.15


class _World:
    """Nodes that join, remember partners and choose the next one."""

    def __init__(self, num_nodes: int, num_events: int, seed: int, rates: Rates) -> None:
        self.rng = np.random.default_rng(seed)
        self.rates, self.num_nodes, self.num_events = rates, num_nodes, num_events
        self.weight = np.cumsum(self.rng.pareto(rates.activity, num_nodes))
        self.home = self.rng.integers(0, rates.communities, num_nodes)
        self.members = [np.flatnonzero(self.home == c) for c in range(rates.communities)]
        self.partners: list[deque[int]] = [deque(maxlen=RECENT) for _ in range(num_nodes)]
        self.alive = max(2, int(rates.present * num_nodes))

    def join(self, event: int) -> None:
        """Let nodes join in order of their number."""
        start = max(2, int(self.rates.present * self.num_nodes))
        grown = start + (self.num_nodes - start) * event / max(1.0, self.rates.joined * self.num_events)
        self.alive = min(self.num_nodes, int(grown))

    def by_activity(self) -> int:
        """A present node, drawn by activity."""
        return int(np.searchsorted(self.weight[: self.alive], self.rng.random() * self.weight[self.alive - 1], "right"))

    def partner(self, source: int) -> int:
        """The partner of ``source`` in its next event; never itself."""
        choice, rates, known = self.rng.random(), self.rates, self.partners[source]
        found: int | None = None
        if choice < rates.repeat:
            found = self._one_of(known)
        elif choice < rates.repeat + rates.closure:
            middle = self._one_of(known)
            found = None if middle is None else self._one_of(self.partners[middle])
        elif choice < rates.repeat + rates.closure + rates.community:
            members = self.members[self.home[source]]
            number = int(np.searchsorted(members, self.alive))
            found = int(members[self.rng.integers(number)]) if number else None
        while found is None or found == source:
            found = self.by_activity()
        return found

    def _one_of(self, nodes: deque[int]) -> int | None:
        return nodes[int(self.rng.integers(len(nodes)))] if nodes else None


def synthetic_events(num_nodes: int = 600, num_events: int = 20_000, seed: int = 0, **rates: float) -> EventStream:
    """A growing social stream: bursts, repeated contacts, triadic closure, communities, integer seconds with ties.

    Args:
        num_nodes: nodes N, at least 2; all have joined after 80 % of the events.
        num_events: events E.
        seed: of everything.
        **rates: fields of :class:`Rates`.

    Raises:
        ValueError: sizes below the least, or a rate that does not exist.
    """
    if num_nodes < 2 or num_events < 1:
        raise ValueError(f"num_nodes={num_nodes}, num_events={num_events}: at least 2 nodes and 1 event are needed")
    unknown = set(rates) - set(Rates.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown rate {sorted(unknown)[0]!r}: choose among {', '.join(Rates.__dataclass_fields__)}")
    world = _World(num_nodes, num_events, seed, Rates(**rates))  # type: ignore[arg-type]
    rng, r = world.rng, world.rates
    events, now, last = np.zeros((num_events, 3), dtype=np.int64), 0.0, None
    for e in range(num_events):
        world.join(e)
        if last is not None and rng.random() < r.burst:
            now += rng.exponential(r.burst_gap)
            source = last[int(rng.integers(2))]
        else:
            now += r.gap * np.exp(rng.normal(0.0, r.gap_sigma))
            source = world.by_activity()
        target = world.partner(source)
        world.partners[source].append(target)
        world.partners[target].append(source)
        events[e] = source + 1, target + 1, int(now)
        last = (source, target)
    src, dst, time = torch.from_numpy(events).unbind(1)
    return EventStream(src.contiguous(), dst.contiguous(), time.contiguous(), num_nodes, name="synthetic")


CHUNK = 1 << 22
"""Power-law events drawn at once."""


def powerlaw_chunks(
    num_nodes: int, num_events: int, seed: int = 0, exponent: float = 1.5, rate: float = 10.0
) -> Iterator[np.ndarray]:
    """The stream of :func:`powerlaw_events` in pieces ``(3, n)`` int64: sources, destinations, times.

    Raises:
        ValueError: fewer than 2 nodes or no event.
    """
    if num_nodes < 2 or num_events < 1:
        raise ValueError(f"num_nodes={num_nodes}, num_events={num_events}: at least 2 nodes and 1 event are needed")
    rng = np.random.default_rng(seed)
    weight = np.cumsum(rng.pareto(exponent, num_nodes) + 1.0)
    weight /= weight[-1]
    now = 0.0
    for start in range(0, num_events, CHUNK):
        size = min(CHUNK, num_events - start)
        columns = np.empty((3, size), dtype=np.int64)
        for row in (0, 1):
            columns[row] = np.searchsorted(weight, rng.random(size), "right") + 1
        gaps = rng.exponential(1.0 / rate, size).cumsum() + now
        columns[2], now = gaps.astype(np.int64), float(gaps[-1])
        same = columns[0] == columns[1]
        columns[1, same] = columns[1, same] % num_nodes + 1
        yield columns


def powerlaw_events(
    num_nodes: int = 100_000, num_events: int = 1_000_000, seed: int = 0, exponent: float = 1.5, rate: float = 10.0
) -> EventStream:
    """A vectorised stream for speed: both ends drawn by Pareto activity, ``rate`` events a second, no closure.

    Args:
        num_nodes: nodes N, at least 2.
        num_events: events E.
        seed: of everything.
        exponent: of the Pareto activity.
        rate: mean events per second; times are whole seconds.
    """
    columns = np.concatenate(list(powerlaw_chunks(num_nodes, num_events, seed, exponent, rate)), 1)
    src, dst, time = (torch.from_numpy(c) for c in columns)
    return EventStream(src, dst, time, num_nodes, name="powerlaw")
