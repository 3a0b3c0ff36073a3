"""Key/value storage with a length of its own for every (sequence, KV head)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Nested = Sequence[Sequence[Tensor]]
Keep = Sequence[Sequence[Tensor | None]]
Counts = npt.NDArray[np.int64]
MIN_SLACK = 32


class _Chosen(NamedTuple):
    """A mask of segments as ``append`` needs it, kept while the caller passes the same unchanged tensor."""

    mask: Tensor
    version: int
    host: npt.NDArray[np.bool_]
    segments: Tensor
    ones: Tensor


class RaggedLayer:
    """Keys and values of one layer in one flat buffer, one segment with slack per (sequence, KV head).

    Where all segments are equally long the buffer is also a dense ``(B, H_kv, n, D)`` block (``dense``). Segments may
    be empty, which a shard uses for (sequence, head) pairs that live elsewhere. Lengths are kept twice, on the device
    for kernels and as an array here, so that neither ``append`` nor ``dense`` waits for the device or walks segments.

    Args:
        keys: nested list ``[b][h]`` of ``(n, D)``.
        values: the same shapes.
        positions: nested list of ``(n,)`` integers; None counts 0..n-1.
        reserve: least number of free slots behind each segment.

    Raises:
        ValueError: shapes that differ or are not rectangular in (b, h).
    """

    def __init__(self, keys: Nested, values: Nested, positions: Nested | None = None, reserve: int = 0) -> None:
        """Copy the parts into the buffer."""
        _check_parts(keys, values, positions)
        first = keys[0][0]
        self.head_dim, self.dtype, self.device = first.shape[1], first.dtype, first.device
        self.batch_size, self.n_kv_heads = len(keys), len(keys[0])
        self._lay_out([[part.shape[0] for part in row] for row in keys], reserve)
        for b, h, span in self._spans():
            self._keys[span] = keys[b][h]
            self._values[span] = values[b][h]
            count = span.stop - span.start
            self._positions[span] = torch.arange(count) if positions is None else positions[b][h].to(torch.int32)

    @classmethod
    def gather(cls, key: Tensor, value: Tensor, keep: Keep, starts: Sequence[int], reserve: int = 0) -> "RaggedLayer":
        """Store chosen columns of dense tensors without an intermediate copy.

        Args:
            key: ``(B, H_kv, S, D)``.
            value: same shape.
            keep: ``[b][h]`` columns counted from ``starts[b]``, or None for all from there on.
            starts: left padding of each sequence.
            reserve: least number of free slots.
        """
        layer = cls.__new__(cls)
        layer.head_dim, layer.dtype, layer.device = key.shape[3], key.dtype, key.device
        layer.batch_size, layer.n_kv_heads = key.shape[0], key.shape[1]
        size = key.shape[2]
        layer._lay_out(
            [[size - start if k is None else len(k) for k in row] for row, start in zip(keep, starts, strict=True)],
            reserve,
        )
        for b, h, span in layer._spans():
            chosen = keep[b][h]
            columns = slice(starts[b], size) if chosen is None else chosen + starts[b]
            layer._keys[span] = key[b, h, columns]
            layer._values[span] = value[b, h, columns]
            count = span.stop - span.start
            layer._positions[span] = torch.arange(count, device=layer.device) if chosen is None else chosen.int()
        return layer

    def _lay_out(self, lengths: Sequence[Sequence[int]], reserve: int) -> None:
        """Allocate fresh buffers; an eighth of a segment stays free, so that appending costs O(1) on average."""
        self._reserve = reserve
        self._counts: Counts = np.array(lengths, dtype=np.int64).reshape(self.batch_size, self.n_kv_heads)
        self._capacities: Counts = self._counts + np.maximum(self._counts // 8, max(reserve, MIN_SLACK))
        ends = self._capacities.reshape(-1).cumsum()
        slots = int(ends[-1]) if ends.size else 0
        self._offsets: Counts = ends.reshape(self._counts.shape) - self._capacities
        self._keys = torch.zeros(slots, self.head_dim, dtype=self.dtype, device=self.device)
        self._values = torch.zeros_like(self._keys)
        self._positions = torch.zeros(slots, dtype=torch.int32, device=self.device)
        self.offsets_tensor = torch.from_numpy(self._offsets).to(self.device)
        self.lengths_tensor = torch.from_numpy(self._counts.astype(np.int32)).to(self.device)
        self._step = torch.arange(1, device=self.device)
        self._chosen: _Chosen | None = None
        self._summarise()
        self.version = getattr(self, "version", -1) + 1
        """Changes with every new layout; kernels cache their work lists by it."""

    def _summarise(self) -> None:
        """Numbers over all segments, kept so that a decode step reads them without a loop."""
        counts, some = self._counts, self._counts.size > 0
        self._live = int(counts.sum())
        self._longest, self._shortest = (int(counts.max()), int(counts.min())) if some else (0, 0)
        self._room = int((self._capacities - counts).min()) if some else 0
        self._even = some and self._longest == self._shortest and bool(np.ptp(self._capacities) == 0)

    def _spans(self) -> list[tuple[int, int, slice]]:
        """All live segments as slices of the flat buffer."""
        offsets, counts = self._offsets.tolist(), self._counts.tolist()
        return [
            (b, h, slice(offsets[b][h], offsets[b][h] + n)) for b, row in enumerate(counts) for h, n in enumerate(row)
        ]

    def _live_slots(self) -> Tensor:
        """Flat indices of all live slots, segment after segment."""
        return self._flat_slots(self.offsets_tensor, self.lengths_tensor, self._live)

    def _flat_slots(self, offsets: Tensor, lengths: Tensor, total: int) -> Tensor:
        """``offset + 0..length-1`` of every segment in one row, without waiting for the device."""
        counts = lengths.reshape(-1).long()
        shift = offsets.reshape(-1) - (counts.cumsum(0) - counts)
        return torch.repeat_interleave(shift, counts, output_size=total) + torch.arange(total, device=self.device)

    @property
    def lengths(self) -> Tensor:
        """Live tokens, ``(B, H_kv)`` int32 on the CPU."""
        return torch.from_numpy(self._counts.astype(np.int32))

    @property
    def capacities(self) -> list[list[int]]:
        """Slots of each segment, free ones included."""
        capacities: list[list[int]] = self._capacities.tolist()
        return capacities

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """The buffers of keys and values, ``(slots, D)``."""
        return self._keys, self._values

    def length(self, b: int, h: int) -> int:
        """Live tokens of one segment."""
        return int(self._counts[b, h])

    def max_length(self) -> int:
        """Longest segment."""
        return self._longest

    def min_length(self) -> int:
        """Shortest segment."""
        return self._shortest

    def _span(self, b: int, h: int) -> slice:
        start = int(self._offsets[b, h])
        return slice(start, start + int(self._counts[b, h]))

    def keys(self, b: int, h: int) -> Tensor:
        """Keys of one segment, a view ``(n, D)``."""
        return self._keys[self._span(b, h)]

    def values(self, b: int, h: int) -> Tensor:
        """Values of one segment, a view ``(n, D)``."""
        return self._values[self._span(b, h)]

    def positions(self, b: int, h: int) -> Tensor:
        """Token positions of one segment in slot order, ``(n,)`` int64."""
        return self._positions[self._span(b, h)].long()

    @property
    def is_even(self) -> bool:
        """Whether all segments are equally long, so that ``dense`` gives views."""
        return self._even

    def dense(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values as views ``(B, H_kv, n, D)`` when all segments are equally long, else None."""
        if not self.is_even:
            return None
        shape = (self.batch_size, self.n_kv_heads, int(self._capacities[0, 0]), self.head_dim)
        return self._keys.view(shape)[:, :, : self._longest], self._values.view(shape)[:, :, : self._longest]

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values ``(B, H_kv, n_max, D)`` and the mask of live slots ``(B, H_kv, n_max)`` (copies)."""
        index, live = self.padded_slots()
        return self._keys[index], self._values[index], live

    def padded_slots(self, rows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Flat slots ``(rows, H_kv, n_max)`` of some sequences (None: all) and which of them are live."""
        offsets, lengths, longest = self.offsets_tensor, self.lengths_tensor, self._longest
        if rows is not None:
            offsets, lengths, longest = offsets[rows], lengths[rows], int(self._counts[rows].max())
        slot = torch.arange(longest, device=self.device)
        live = slot < lengths[..., None]
        return torch.where(live, offsets[..., None] + slot, 0), live

    def append(self, key: Tensor, value: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Add ``T`` tokens to every segment in place.

        Args:
            key: ``(B, H_kv, T, D)``.
            value: same shape.
            positions: ``(B, T)``; default: last position + 1, ... (an empty segment starts at 0).
            mask: ``(B, H_kv)`` bool, the segments that take part; default: all.

        Raises:
            ValueError: if the shapes do not fit the layer.
        """
        expected = (self.batch_size, self.n_kv_heads, key.shape[2] if key.ndim == 4 else 0, self.head_dim)
        if key.shape != expected or value.shape != expected:
            raise ValueError(f"append got keys {tuple(key.shape)}, values {tuple(value.shape)}; expected {expected}")
        count = key.shape[2]
        if count > self._room:
            self._grow(count)
        if len(self._step) != count:
            self._step = torch.arange(count, device=self.device)
        chosen = None if mask is None else self._taking(mask)
        index = self.offsets_tensor + self.lengths_tensor
        index = index[..., None] + self._step if count > 1 else index
        where = self._new_positions(positions)
        if chosen is not None:
            index, where = (x.reshape(-1, count)[chosen.segments] for x in (index, where))
            key, value = (x.flatten(0, 1)[chosen.segments] for x in (key, value))
        index = index.reshape(-1)
        self._keys.index_copy_(0, index, key.reshape(-1, self.head_dim).to(self.dtype))
        self._values.index_copy_(0, index, value.reshape(-1, self.head_dim).to(self.dtype))
        self._positions.index_copy_(0, index, where.reshape(-1))
        self._lengthen(count, chosen)

    def _lengthen(self, count: int, chosen: _Chosen | None) -> None:
        """Add ``count`` to the lengths of the chosen segments, here and on the device."""
        if chosen is None:
            self.lengths_tensor += count
            self._counts += count
            self._live += count * self._counts.size
            self._longest, self._shortest = self._longest + count, self._shortest + count
            self._room -= count
            return
        self.lengths_tensor += count * chosen.ones if count > 1 else chosen.ones
        self._counts += count * chosen.host
        self._summarise()

    def _taking(self, mask: Tensor) -> _Chosen:
        """The segments of a mask on the device; remembered for the next step."""
        known = self._chosen
        if known is None or known.mask is not mask or known.version != mask._version:
            host = mask.detach().cpu().numpy().astype(bool)
            segments = torch.from_numpy(np.flatnonzero(host)).to(self.device)
            self._chosen = known = _Chosen(mask, mask._version, host, segments, mask.to(self.device, torch.int32))
        return known

    def _new_positions(self, positions: Tensor | None) -> Tensor:
        """Positions of the new tokens, ``(B, H_kv, T)`` int32."""
        if positions is not None:
            return positions.to(self.device, torch.int32)[:, None].expand(-1, self.n_kv_heads, -1)
        last = (self.offsets_tensor + self.lengths_tensor - 1).clamp(min=0)
        start = torch.where(self.lengths_tensor > 0, self._positions[last] + 1, 0)
        return (start[..., None] + self._step).to(torch.int32)

    def _grow(self, count: int) -> None:
        """Move to a new layout with room for ``count`` more tokens."""
        self._rebuild([[None] * self.n_kv_heads] * self.batch_size, max(self._reserve, count + MIN_SLACK))

    def compact(self, keep: Keep) -> None:
        """Keep only the named slots, in the order given, and free the rest.

        Args:
            keep: ``[b][h]`` slot indices, or None for an untouched segment.

        Raises:
            ValueError: a slot out of range, or a list of another shape.
        """
        if len(keep) != self.batch_size or any(len(row) != self.n_kv_heads for row in keep):
            raise ValueError(f"keep must be [{self.batch_size}][{self.n_kv_heads}] lists of slots")
        if any(slots is not None for row in keep for slots in row):
            self._check_slots(keep)
            self._rebuild(keep, self._reserve)

    def _check_slots(self, keep: Keep) -> None:
        """Raise ValueError for a slot out of range; one question to the device for all segments."""
        cells = [(b, h, s) for b, row in enumerate(keep) for h, s in enumerate(row) if s is not None and len(s)]
        if not cells:
            return
        limits = [int(self._counts[b, h]) for b, h, _ in cells]
        slots = torch.cat([s for _, _, s in cells])
        sizes = torch.tensor([[len(s) for _, _, s in cells], limits]).to(slots.device)
        limit = torch.repeat_interleave(sizes[1], sizes[0], output_size=len(slots))
        if not bool(((slots < 0) | (slots >= limit)).any()):
            return
        for (b, h, chosen), count in zip(cells, limits, strict=True):
            if bool(((chosen < 0) | (chosen >= count)).any()):
                raise ValueError(f"slot out of range for sequence {b}, head {h}, which holds {count} tokens")

    def _rebuild(self, keep: Keep, reserve: int) -> None:
        """Move the named slots (None: all of a segment) to a new layout."""
        old = (self._keys, self._values, self._positions)
        source = self._source(keep)
        counts = [
            [self.length(b, h) if slots is None else len(slots) for h, slots in enumerate(row)]
            for b, row in enumerate(keep)
        ]
        kept = self._reserve
        self._lay_out(counts, reserve)
        self._reserve = kept
        target = self._live_slots()
        for new, before in zip((self._keys, self._values, self._positions), old, strict=True):
            new.index_copy_(0, target, before.index_select(0, source))

    def _source(self, keep: Keep) -> Tensor:
        """Flat slots that stay, segment after segment."""
        if all(slots is None for row in keep for slots in row):
            return self._live_slots()
        cells = [(b, h, slots) for b, row in enumerate(keep) for h, slots in enumerate(row)]
        parts = [
            torch.arange(self.length(b, h), device=self.device) if s is None else s.to(self.device) for b, h, s in cells
        ]
        sizes = torch.tensor([len(part) for part in parts]).to(self.device)
        total = sum(len(part) for part in parts)
        return torch.cat(parts) + torch.repeat_interleave(self.offsets_tensor.reshape(-1), sizes, output_size=total)

    def live_tokens(self) -> int:
        """Stored tokens summed over sequences and heads."""
        return self._live

    def memory_bytes(self) -> int:
        """Bytes of live keys and values (slack and positions not counted)."""
        return self.live_tokens() * 2 * self.head_dim * self._keys.element_size()

    def allocated_bytes(self) -> int:
        """Bytes of the buffers, slack and positions included."""
        return 2 * self._keys.numel() * self._keys.element_size() + 4 * self._positions.numel()


def _check_parts(keys: Nested, values: Nested, positions: Nested | None) -> None:
    if not keys or not keys[0]:
        raise ValueError("a layer needs at least one sequence and one head")
    dim = keys[0][0].shape[-1]
    for b, row in enumerate(keys):
        if len(row) != len(keys[0]) or len(values) != len(keys) or len(values[b]) != len(row):
            raise ValueError(
                f"sequence {b} has {len(row)} key heads; every sequence needs {len(keys[0])} keys and values"
            )
        for h, part in enumerate(row):
            if part.ndim != 2 or part.shape[1] != dim or values[b][h].shape != part.shape:
                raise ValueError(
                    f"sequence {b}, head {h}: keys {tuple(part.shape)}, values {tuple(values[b][h].shape)}; "
                    f"expected (n, {dim})"
                )
            if positions is not None and positions[b][h].shape != part.shape[:1]:
                raise ValueError(
                    f"sequence {b}, head {h}: {tuple(positions[b][h].shape)} positions for {part.shape[0]} keys"
                )
