"""Links of ``predict``: pairs asked at a time, after all earlier events of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from septet.datamodules.temporal_graph.batches import Links
from septet.datamodules.temporal_graph.events import EventStream, distinct_ids
from septet.datamodules.temporal_graph.readers import read_pairs
from septet.kernels.hashing import structure_pass

if TYPE_CHECKING:
    from septet.datamodules.temporal_graph.datamodule import TemporalGraphEvents


def prediction_links(data: TemporalGraphEvents, path: str | None) -> Links:
    """Links without negatives, ``(B, 1)``.

    Args:
        data: the data module, set up.
        path: pairs u,i,ts in a form of :func:`read_pairs`, in the ids of the stream's own file; None: the test events.

    Raises:
        ValueError: a pair holds an id that occurs in no event of the stream, or a fraction where its times are whole.
    """
    if path is None:
        test = data.evaluation_links("test")
        feats = [None if f is None else f[:, :1] for f in (test.src_feat, test.dst_feat)]
        return Links(test.pair_src[:, :1], test.pair_dst[:, :1], test.time, test.event, test.index, test.length, *feats)
    src, dst, time = asked_pairs(data.stream, path)
    pair_src, pair_dst = src.unsqueeze(1), dst.unsqueeze(1)
    feats = [None, None] if data.states is None else list(_features(data, pair_src, pair_dst, time))
    return Links(pair_src, pair_dst, time, torch.zeros_like(src), data.full_index, data.length, *feats)


def asked_pairs(stream: EventStream, path: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, destinations ``(E,)`` in the ids of the stream, and times in its type."""
    asked = read_pairs(path, stream.numbering)
    seen = torch.zeros(stream.nodes + 1, dtype=torch.bool)
    seen[distinct_ids(stream.src, stream.nodes, stream.dst)] = True
    ends = []
    for side, name in (("src", "source"), ("dst", "destination")):
        given = torch.from_numpy(asked[side])
        ids = stream.numbering.inner(given, side, stream.nodes)  # type: ignore[arg-type]
        known = seen[ids]
        if not bool(known.all()):
            pair = int((~known).nonzero()[0])
            raise ValueError(
                f"{path}: {name} {given[pair]} of pair {pair} occurs in no event of the stream: "
                "ask in the ids of the stream's own file, and only for nodes that it has"
            )
        ends.append(ids)
    time = torch.from_numpy(asked["time"])
    if time.is_floating_point() and not stream.time.is_floating_point():
        pair = int((time != time.floor()).int().argmax())
        raise ValueError(f"{path}: time {time[pair]} of pair {pair} is no whole number, as the times of the stream are")
    return ends[0], ends[1], time.to(stream.time.dtype)


def _features(data: TemporalGraphEvents, pair_src: Tensor, pair_dst: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Features of asked pairs: stream the events before each asked time, then read without writing.

    Pairs asked after training start from state A, as evaluation does; earlier ones replay the whole stream.
    """
    stream, states = data.stream, data.states
    assert states is not None
    first = 0
    states.memory.reset()
    if time[0].item() > data.splits.val_time:
        states.restore("A")
        first = int(np.searchsorted(stream.time.numpy(), data.splits.val_time, "right"))
    shape = (*pair_src.shape, data.length, 5)
    out = torch.empty(shape, dtype=torch.uint8), torch.empty(shape, dtype=torch.uint8)
    before = torch.searchsorted(stream.time, time).clamp(min=first)
    bounds, sizes = torch.unique_consecutive(before, return_counts=True)
    start, done = 0, first
    for bound, size in zip(bounds.tolist(), sizes.tolist(), strict=True):
        states.stream_events(done, bound)
        part = slice(start, start + size)
        features = structure_pass(
            states.memory, data.full_index, pair_src[part, 0], pair_dst[part, 0], time[part], pair_src[part],
            pair_dst[part], length=data.length, granularity=max(1, size), write=False,
        )  # fmt: skip
        out[0][part], out[1][part] = features.src_feat, features.dst_feat
        start, done = start + size, bound
    return out
