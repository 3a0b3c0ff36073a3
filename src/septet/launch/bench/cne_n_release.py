"""The release's way of computing, re-created from its description as the timing peer of ``septet bench cne_n``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from septet.kernels.hashing import hash_slots
from septet.lightning_modules.cne_n.model import CHANNELS, STRUCTURE_WIDTH, TimeEncoder


class ReleasePath:
    """Look-up by a Python loop over nodes, int64 row copies, four comparisons per side, four indexed writes.

    Args:
        src: event sources ``(E,)``.
        dst: destinations ``(E,)``.
        time: times ``(E,)``.
        num_nodes: largest id.
        length: L.
        long: M.
    """

    def __init__(
        self, src: Tensor, dst: Tensor, time: Tensor, num_nodes: int, length: int = 10, long: int = 64
    ) -> None:
        self.length, self.long, self.short = length, long, long // 4
        lists: list[tuple[list[int], list[float], list[int]]] = [([], [], []) for _ in range(num_nodes + 1)]
        columns = src.tolist(), dst.tolist(), time.tolist()
        for e, (u, v, t) in enumerate(zip(*columns, strict=True), start=1):
            for a, b in ((u, v), (v, u)):
                lists[a][0].append(b)
                lists[a][1].append(float(t))
                lists[a][2].append(e)
        self.ids = [np.array(entry[0], dtype=np.int64) for entry in lists]
        self.times = [np.array(entry[1], dtype=np.float32) for entry in lists]
        self.edges = [np.array(entry[2], dtype=np.int64) for entry in lists]
        self.table = torch.zeros(num_nodes + 1, self.short + long, dtype=torch.int64)

    def sequence(self, nodes: Tensor, now: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, times and edge ids ``(B, L)``, padded to the batch's longest."""
        found = []
        for node, t in zip(nodes.tolist(), now.tolist(), strict=True):
            stop = int(np.searchsorted(self.times[node], t))
            part = slice(max(0, stop - self.length + 1), stop)
            found.append((self.ids[node][part], self.times[node][part], self.edges[node][part]))
        size = 1 + max(len(f[0]) for f in found)
        ids, edges = np.zeros((len(found), size), dtype=np.int64), np.zeros((len(found), size), dtype=np.int64)
        times = np.zeros((len(found), size), dtype=np.float32)
        ids[:, 0], times[:, 0] = nodes.numpy(), now.numpy()
        for row, (i, t, e) in enumerate(found):
            ids[row, 1 : 1 + len(i)], times[row, 1 : 1 + len(i)], edges[row, 1 : 1 + len(i)] = i, t, e
        return torch.from_numpy(ids), torch.from_numpy(times), torch.from_numpy(edges)

    def encode(self, own: Tensor, other: Tensor, ids: Tensor) -> Tensor:
        """Features ``(B, L, 5)`` of one side."""
        rows = self.table[ids]
        counts = []
        for part in (slice(self.short, None), slice(0, self.short)):
            for node in (own, other):
                row = self.table[node][:, part].unsqueeze(1).repeat(1, ids.shape[1], 1)
                equal = (rows[..., part] == row) & (row != 0)
                counts.append(equal.sum(-1))
        counts.append((ids == other.unsqueeze(1)).long())
        return torch.stack(counts, -1)

    def write(self, src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor) -> None:
        """Four phases, each one indexed assignment per table."""
        u, v = src.unsqueeze(1).expand_as(dst_ids), dst.unsqueeze(1).expand_as(src_ids)
        for rows, ids in ((u, dst_ids), (v, src_ids), (src_ids, v), (dst_ids, u)):
            self.table[rows, hash_slots(ids, self.short, "short", "released")] = ids
            self.table[rows, self.short + hash_slots(ids, self.long, "long", "released")] = ids

    def structure(self, src: Tensor, dst: Tensor, negative: Tensor, now: Tensor) -> list[tuple[Tensor, ...]]:
        """Sequences and features of a batch: negatives, then positives, then the write."""
        out: list[tuple[Tensor, ...]] = []
        sides: list[tuple[Tensor, Tensor, Tensor]] = []
        for target in (negative, dst):
            sides = [self.sequence(src, now), self.sequence(target, now)]
            features = self.encode(src, target, sides[0][0]), self.encode(target, src, sides[1][0])
            out.append((*sides[0], features[0], *sides[1], features[1]))
        self.write(src, dst, sides[0][0], sides[1][0])
        return out


class ReleaseNet(nn.Module):
    """The network as written: four projections, concatenation, blocks, mean over the padded length."""

    def __init__(self, node: int = 172, edge: int = 172, time: int = 100, channel: int = 50) -> None:
        super().__init__()
        self.time_encoder = TimeEncoder(time)
        sizes = (node, edge, time, STRUCTURE_WIDTH)
        self.projection = nn.ModuleDict({n: nn.Linear(s, channel) for n, s in zip(CHANNELS, sizes, strict=True)})
        width = 4 * channel
        self.blocks = nn.Sequential(
            *[m for _ in range(2) for m in (nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1), nn.LayerNorm(width))]
        )
        self.output = nn.Linear(width, node)
        self.head = nn.Sequential(nn.Linear(2 * node, node), nn.ReLU(), nn.Linear(node, 1))

    def embed(self, node: Tensor, edge: Tensor, now: Tensor, ids: Tensor, times: Tensor, structure: Tensor) -> Tensor:
        """Embeddings ``(B, Fn)`` from feature tables and sequences."""
        code = self.time_encoder(now.float().unsqueeze(1) - times)
        code[ids == 0] = 0.0
        inputs = node[ids], edge, code, structure.float()
        x = torch.cat([self.projection[n](i) for n, i in zip(CHANNELS, inputs, strict=True)], -1)
        out: Tensor = self.output(self.blocks(x).mean(1))
        return out

    def logits(self, tables: tuple[Tensor, Tensor], now: Tensor, part: tuple[Tensor, ...]) -> Tensor:
        """Logits ``(B,)`` of what :meth:`ReleasePath.structure` gives for one sign."""
        node, edge = tables
        ends = [
            self.embed(node, edge[edges], now, ids, times, feat) for ids, times, edges, feat in (part[:4], part[4:])
        ]
        out: Tensor = self.head(torch.cat(ends, -1)).squeeze(-1)
        return out
