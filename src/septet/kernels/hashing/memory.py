"""Hash table of two-hop neighbours per node (CNE-N, KDD 2024, section 3): encode links, write events."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from septet.kernels.hashing import native, reference
from septet.kernels.hashing.neighbors import NodeSequence, check_ids
from septet.kernels.hashing.slots import HashKind, check_kind, slot_columns
from septet.kernels.hashing.vectorized import encode, update

WriteOrder = Literal["event", "phase"]
BACKENDS = ("auto", "reference", "torch", "native")


def check_order(order: str) -> None:
    """Raise ValueError unless ``order`` names a write order."""
    if order not in ("event", "phase"):
        raise ValueError(f"unknown write order {order!r}: choose 'event' or 'phase'")


def check_table(num_nodes: int, long: int, short: int, device: torch.device) -> None:
    """Raise ValueError for sizes that no table can have or that the device cannot hold."""
    if not 1 <= long <= 255:
        raise ValueError(f"long={long} is outside 1..255: counts are stored as uint8")
    if short < 1:
        raise ValueError(f"short={short} is below 1: give short >= 1, or long >= 4 for the default long // 4")
    if short > 255:
        raise ValueError(f"short={short} is above 255: counts are stored as uint8")
    if num_nodes < 1 or num_nodes >= 2**31:
        raise ValueError(f"num_nodes={num_nodes} is outside 1..2^31-1: number sparse ids anew (compact=True)")
    need, have = (num_nodes + 1) * (short + long) * 4, _free_bytes(device)
    if need > have:
        raise ValueError(f"the table needs {need:,} bytes, {device} has {have:,} free: lower long or compact the ids")


def _free_bytes(device: torch.device) -> int:
    """Free bytes of the device; of the host, what the kernel calls available."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62


class HashNeighborMemory(nn.Module):
    """One row per node: a short and a long table of the ids seen within two hops.

    Both tables get the same writes; the short one is overwritten sooner, which alone makes it short-term.

    Args:
        num_nodes: largest id N; row 0 stands for "no node".
        long: slots M of the long table, 1..255.
        short: slots Q of the short table; default ``long // 4``.
        kind: hash, ``"mixed"`` or ``"released"``.
        padding: ``"mask"`` never writes id 0; ``"node"`` treats 0 as an id like any other (the official code).
        backend: ``"auto"`` takes native code on a CPU where numba is installed, torch elsewhere.

    Raises:
        ValueError: sizes out of range, unknown names, a table larger than the memory of the device.
    """

    table: Tensor
    columns: Tensor

    def __init__(
        self,
        num_nodes: int,
        long: int = 64,
        short: int | None = None,
        kind: HashKind = "mixed",
        padding: Literal["mask", "node"] = "mask",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        short = long // 4 if short is None else short
        check_kind(kind)
        if padding not in ("mask", "node"):
            raise ValueError(f"unknown padding {padding!r}: choose 'mask' or 'node'")
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        device = torch.empty(0).device
        check_table(num_nodes, long, short, device)
        self.num_nodes, self.short, self.long = num_nodes, short, long
        self.kind, self.padding, self.backend = kind, padding, backend
        self.register_buffer("table", torch.zeros(num_nodes + 1, short + long, dtype=torch.int32), persistent=False)
        self.register_buffer("columns", slot_columns(num_nodes, short, long, kind, device), persistent=False)

    def engine(self) -> str:
        """The backend in use: ``"reference"``, ``"torch"`` or ``"native"``."""
        if self.backend == "auto":
            return "native" if self.table.device.type == "cpu" and native.available() else "torch"
        if self.backend == "native" and self.table.device.type != "cpu":
            raise ValueError("backend 'native' runs on the CPU only: choose 'torch' or 'auto' for a GPU table")
        return self.backend

    def encode(self, src: Tensor, dst: Tensor, src_seq: Tensor, dst_seq: Tensor) -> tuple[Tensor, Tensor]:
        """Co-neighbour features of links against the present table (section 3.2).

        Args:
            src: sources ``(B,)``.
            dst: destinations ``(B,)``.
            src_seq: ids of the sources' sequences ``(B, Ls)``, or a NodeSequence.
            dst_seq: the same for the destinations ``(B, Ld)``.

        Returns:
            uint8 ``(B, Ls, 5)`` and ``(B, Ld, 5)``: per position the long counts against the own and the other node,
            the short counts likewise, and whether the position is the other node.
        """
        src_ids, dst_ids = self._checked(src, dst, src_seq, dst_seq)
        return self.encode_unchecked(src, dst, src_ids, dst_ids)

    def encode_unchecked(self, src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`encode` without looking at the ids again (inner loop)."""
        engine = self.engine()
        if engine == "native":
            return native.encode(self.table, self.short, src, dst, src_ids, dst_ids)
        if engine == "torch":
            return encode(self.table, self.short, src, dst, src_ids, dst_ids)
        return (
            reference.encode_side(self.table, self.short, src, dst, src_ids),
            reference.encode_side(self.table, self.short, dst, src, dst_ids),
        )

    def update(self, src: Tensor, dst: Tensor, src_seq: Tensor, dst_seq: Tensor, order: WriteOrder = "event") -> None:
        """Write positive events, in four phases, with the sequences read before them (section 3.3).

        Args:
            src: sources ``(B,)``.
            dst: destinations ``(B,)``.
            src_seq: ids of the sources' sequences ``(B, Ls)``, or a NodeSequence.
            dst_seq: the same for the destinations ``(B, Ld)``.
            order: which write wins inside the call: the last in (event, phase, j) or in (phase, event, j).
        """
        check_order(order)
        src_ids, dst_ids = self._checked(src, dst, src_seq, dst_seq)
        self.update_unchecked(src, dst, src_ids, dst_ids, order)

    def update_unchecked(self, src: Tensor, dst: Tensor, src_ids: Tensor, dst_ids: Tensor, order: str) -> None:
        """:meth:`update` without looking at the ids again (inner loop)."""
        engine, mask = self.engine(), self.padding == "mask"
        if engine == "native":
            native.update(self.table, self.columns, src, dst, src_ids, dst_ids, order=order, mask=mask)
        elif engine == "torch":
            update(self.table, self.columns, src, dst, src_ids, dst_ids, order=order, mask=mask)
        else:
            reference.update(self.table, self.short, self.kind, src, dst, src_ids, dst_ids, order=order, mask=mask)

    def _checked(
        self, src: Tensor, dst: Tensor, src_seq: Tensor | NodeSequence, dst_seq: Tensor | NodeSequence
    ) -> tuple[Tensor, Tensor]:
        """The ids of both sequences after checking shapes and ranges."""
        src_ids = src_seq.ids if isinstance(src_seq, NodeSequence) else src_seq
        dst_ids = dst_seq.ids if isinstance(dst_seq, NodeSequence) else dst_seq
        if not len(src) == len(dst) == len(src_ids) == len(dst_ids):
            sizes = f"src {len(src)}, dst {len(dst)}, src_seq {len(src_ids)}, dst_seq {len(dst_ids)}"
            raise ValueError(f"unequal batch sizes: {sizes}")
        for name, ids in (("src", src), ("dst", dst), ("src_seq", src_ids), ("dst_seq", dst_ids)):
            check_ids(name, ids, self.num_nodes, lowest=0)
        return src_ids, dst_ids

    def reset(self) -> None:
        """Empty every row."""
        self.table.zero_()

    def snapshot(self) -> Tensor:
        """A copy of the table."""
        return self.table.clone()

    def restore(self, snapshot: Tensor) -> None:
        """Copy a snapshot back in place.

        Raises:
            ValueError: the snapshot has another shape.
        """
        if snapshot.shape != self.table.shape:
            raise ValueError(f"snapshot of shape {tuple(snapshot.shape)} for a table of {tuple(self.table.shape)}")
        self.table.copy_(snapshot)

    def occupancy(self) -> Tensor:
        """Filled slots per row, ``(N+1, 2)``: short table, long table."""
        filled = self.table != 0
        return torch.stack([filled[:, : self.short].sum(1), filled[:, self.short :].sum(1)], 1)

    def memory_bytes(self) -> int:
        """Bytes of the table and of the slot columns."""
        return self.table.numel() * self.table.element_size() + self.columns.numel() * self.columns.element_size()
