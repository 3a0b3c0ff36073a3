"""Links of ``predict``: pairs asked at a time, after all earlier events of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from septet.datamodules.temporal_graph.batches import Links
from septet.datamodules.temporal_graph.readers import read_events
from septet.kernels.hashing import structure_pass

if TYPE_CHECKING:
    from septet.datamodules.temporal_graph.datamodule import TemporalGraphEvents


def prediction_links(data: TemporalGraphEvents, path: str | None) -> Links:
    """Links without negatives, ``(B, 1)``.

    Args:
        data: the data module, set up.
        path: pairs u,i,ts in a form of :func:`read_events`; None: the test events.

    Raises:
        ValueError: a pair holds an id that the stream does not have.
    """
    if path is None:
        test = data.evaluation_links("test")
        feats = [None if f is None else f[:, :1] for f in (test.src_feat, test.dst_feat)]
        return Links(test.pair_src[:, :1], test.pair_dst[:, :1], test.time, test.event, test.index, test.length, *feats)
    asked = read_events(path, "auto", id_base=1)
    if asked.nodes > data.stream.nodes:
        raise ValueError(f"{path}: node id {asked.nodes} is above the {data.stream.nodes} nodes of the stream")
    pair_src, pair_dst = asked.src.unsqueeze(1), asked.dst.unsqueeze(1)
    time = asked.time.to(data.stream.time.dtype)
    feats = [None, None] if data.states is None else list(_features(data, pair_src, pair_dst, time))
    return Links(pair_src, pair_dst, time, torch.zeros_like(asked.src), data.full_index, data.length, *feats)


def _features(data: TemporalGraphEvents, pair_src: Tensor, pair_dst: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Features of asked pairs: stream the events before each asked time, then read without writing.

    Pairs asked after training start from state A, as evaluation does; earlier ones replay the whole stream.
    """
    stream, states = data.stream, data.states
    assert states is not None
    first = 0
    states.memory.reset()
    if float(time[0]) > data.splits.val_time:
        states.restore("A")
        first = int(torch.searchsorted(stream.time, torch.tensor(data.splits.val_time), right=True))
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
