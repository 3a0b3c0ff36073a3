"""Scoring one event against 20 negatives, CNE-N and DyGFormer on the same links: the cost of an MRR evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.datamodules.temporal_graph import EventStream, LinkBatch
from septet.kernels.hashing import HashNeighborMemory, NodeSequence, TemporalNeighborIndex, structure_pass
from septet.launch.bench import cpu_seconds
from septet.lightning_modules.cne_n import CNEN
from septet.lightning_modules.cne_n.baselines import DyGFormer
from septet.lightning_modules.cne_n.features import FeatureTables

NEGATIVES, LENGTH, LONG, DYGFORMER_LENGTH = 20, 10, 64, 32


def seconds(stream: EventStream, events: int, repeats: int) -> tuple[float, float]:
    """Median CPU seconds for the last ``events`` events of a stream: CNE-N (pass included) and DyGFormer (L = 32)."""
    total = len(stream)
    at, before = slice(total - events, total), slice(0, total - events)
    g = torch.Generator().manual_seed(0)
    drawn = stream.dst[torch.randint(0, total, (events, NEGATIVES), generator=g)]
    pair_dst = torch.cat([stream.dst[at].unsqueeze(1), drawn], 1)
    pair_src = stream.src[at].unsqueeze(1).expand_as(pair_dst).contiguous()
    index = TemporalNeighborIndex(stream.src, stream.dst, stream.time, num_nodes=stream.nodes)
    memory = HashNeighborMemory(stream.nodes, LONG)
    past = stream.src[before], stream.dst[before]
    structure_pass(memory, index, *past, stream.time[before], past[0][:, None], past[1][:, None], length=LENGTH)
    ours, theirs = CNEN(), DyGFormer(patch=1)
    ours.configure_model()
    ours.eval(), theirs.eval()
    state, event = memory.snapshot(), torch.arange(total - events, total) + 1

    def cne_n() -> Tensor:
        memory.restore(state)
        columns = stream.src[at], stream.dst[at], stream.time[at]
        found = structure_pass(memory, index, *columns, pair_src, pair_dst, length=LENGTH)
        return ours.score(LinkBatch(pair_src, pair_dst, stream.time[at], event, *found))

    def dygformer() -> Tensor:
        times = stream.time[at].repeat_interleave(1 + NEGATIVES)
        sides = []
        for nodes in (pair_src, pair_dst):
            flat = index.sequence(nodes.flatten(), times, DYGFORMER_LENGTH)
            ids, then, edges = (a.view(*nodes.shape, -1) for a in flat[:3])
            sides.append(NodeSequence(ids, then, edges, flat.count.view(nodes.shape)))
        batch = LinkBatch(pair_src, pair_dst, stream.time[at], event, sides[0], sides[1], None, None)
        return theirs.score(batch, FeatureTables())

    with torch.no_grad():
        return cpu_seconds(cne_n, repeats), cpu_seconds(dygformer, repeats)
