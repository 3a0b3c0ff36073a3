"""Key/value storage with a length of its own for every (sequence, KV head)."""

from collections.abc import Sequence

import torch
from torch import Tensor

Nested = Sequence[Sequence[Tensor]]
Keep = Sequence[Sequence[Tensor | None]]
MIN_SLACK = 32


def _slack(length: int, reserve: int) -> int:
    """Free slots behind a segment: at least an eighth of it, so that appending costs O(1) on average."""
    return max(reserve, MIN_SLACK, length // 8)


class RaggedLayer:
    """Keys and values of one layer in one flat buffer, one segment with slack per (sequence, KV head).

    Where all segments are equally long the buffer is also a dense ``(B, H_kv, n, D)`` block (``dense``). Segments may
    be empty, which a shard uses for (sequence, head) pairs that live elsewhere.

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

    def _lay_out(self, lengths: list[list[int]], reserve: int) -> None:
        """Allocate fresh buffers for segments of these lengths."""
        self._reserve = reserve
        self._counts = [list(row) for row in lengths]
        self._capacities = [[n + _slack(n, reserve) for n in row] for row in lengths]
        offset = 0
        self._offsets: list[list[int]] = []
        for row in self._capacities:
            self._offsets.append([])
            for capacity in row:
                self._offsets[-1].append(offset)
                offset += capacity
        self._keys = torch.zeros(offset, self.head_dim, dtype=self.dtype, device=self.device)
        self._values = torch.zeros_like(self._keys)
        self._positions = torch.zeros(offset, dtype=torch.int32, device=self.device)
        self.offsets_tensor = torch.tensor(self._offsets, dtype=torch.int64, device=self.device)
        self.lengths_tensor = torch.tensor(self._counts, dtype=torch.int32, device=self.device)
        self.version = getattr(self, "version", -1) + 1
        """Changes with every new layout; kernels cache their work lists by it."""

    def _spans(self) -> list[tuple[int, int, slice]]:
        """All live segments as slices of the flat buffer."""
        return [
            (b, h, slice(self._offsets[b][h], self._offsets[b][h] + n))
            for b, row in enumerate(self._counts)
            for h, n in enumerate(row)
        ]

    @property
    def lengths(self) -> Tensor:
        """Live tokens, ``(B, H_kv)`` int32 on the CPU."""
        return torch.tensor(self._counts, dtype=torch.int32)

    @property
    def capacities(self) -> list[list[int]]:
        """Slots of each segment, free ones included."""
        return self._capacities

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """The buffers of keys and values, ``(slots, D)``."""
        return self._keys, self._values

    def length(self, b: int, h: int) -> int:
        """Live tokens of one segment."""
        return self._counts[b][h]

    def max_length(self) -> int:
        """Longest segment."""
        return max((n for row in self._counts for n in row), default=0)

    def min_length(self) -> int:
        """Shortest segment."""
        return min((n for row in self._counts for n in row), default=0)

    def _span(self, b: int, h: int) -> slice:
        return slice(self._offsets[b][h], self._offsets[b][h] + self._counts[b][h])

    def keys(self, b: int, h: int) -> Tensor:
        """Keys of one segment, a view ``(n, D)``."""
        return self._keys[self._span(b, h)]

    def values(self, b: int, h: int) -> Tensor:
        """Values of one segment, a view ``(n, D)``."""
        return self._values[self._span(b, h)]

    def positions(self, b: int, h: int) -> Tensor:
        """Token positions of one segment in slot order, ``(n,)`` int64."""
        return self._positions[self._span(b, h)].long()

    def dense(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values as views ``(B, H_kv, n, D)`` when all segments are equally long, else None."""
        if not self.n_kv_heads:
            return None
        count, capacity = self._counts[0][0], self._capacities[0][0]
        if any(n != count for row in self._counts for n in row) or any(
            c != capacity for r in self._capacities for c in r
        ):
            return None
        shape = (self.batch_size, self.n_kv_heads, capacity, self.head_dim)
        return self._keys.view(shape)[:, :, :count], self._values.view(shape)[:, :, :count]

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values ``(B, H_kv, n_max, D)`` and the mask of live slots ``(B, H_kv, n_max)`` (copies)."""
        slot = torch.arange(self.max_length(), device=self.device)
        live = slot < self.lengths_tensor[..., None]
        index = torch.where(live, self.offsets_tensor[..., None] + slot, 0)
        return self._keys[index], self._values[index], live

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
        if any(
            n + count > c
            for row, caps in zip(self._counts, self._capacities, strict=True)
            for n, c in zip(row, caps, strict=True)
        ):
            self._grow(count)
        step = torch.arange(count, device=self.device)
        index = (self.offsets_tensor + self.lengths_tensor)[..., None] + step
        where = self._new_positions(positions, step)
        taking = [[True] * self.n_kv_heads] * self.batch_size if mask is None else mask.tolist()
        if mask is not None:
            chosen = mask.to(self.device)
            index, key, value, where = index[chosen], key[chosen], value[chosen], where[chosen]
        index = index.reshape(-1)
        self._keys.index_copy_(0, index, key.reshape(-1, self.head_dim).to(self.dtype))
        self._values.index_copy_(0, index, value.reshape(-1, self.head_dim).to(self.dtype))
        self._positions.index_copy_(0, index, where.reshape(-1))
        self._counts = [
            [n + count * t for n, t in zip(r, m, strict=True)] for r, m in zip(self._counts, taking, strict=True)
        ]
        self.lengths_tensor += count if mask is None else count * mask.to(self.device, torch.int32)

    def _new_positions(self, positions: Tensor | None, step: Tensor) -> Tensor:
        if positions is not None:
            return positions.to(self.device, torch.int32)[:, None].expand(-1, self.n_kv_heads, -1)
        last = (self.offsets_tensor + self.lengths_tensor - 1).clamp(min=0)
        start = torch.where(self.lengths_tensor > 0, self._positions[last] + 1, 0)
        return (start[..., None] + step).to(torch.int32)

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
        for b, row in enumerate(keep):
            for h, slots in enumerate(row):
                if (
                    slots is not None
                    and len(slots)
                    and not 0 <= int(slots.min()) <= int(slots.max()) < self._counts[b][h]
                ):
                    raise ValueError(
                        f"slot out of range for sequence {b}, head {h}, which holds {self._counts[b][h]} tokens"
                    )
        if any(slots is not None for row in keep for slots in row):
            self._rebuild(keep, self._reserve)

    def _rebuild(self, keep: Keep, reserve: int) -> None:
        old = (self._keys, self._values, self._positions)
        spans = {(b, h): span for b, h, span in self._spans()}
        source = [
            torch.arange(span.start, span.stop, device=self.device)
            if (slots := keep[b][h]) is None
            else slots.to(self.device) + span.start
            for (b, h), span in spans.items()
        ]
        kept = self._reserve
        self._lay_out(
            [[len(source[b * self.n_kv_heads + h]) for h in range(self.n_kv_heads)] for b in range(self.batch_size)],
            reserve,
        )
        self._reserve = kept
        target = torch.cat([torch.arange(s.start, s.stop, device=self.device) for _, _, s in self._spans()])
        index = torch.cat(source)
        for new, before in zip((self._keys, self._values, self._positions), old, strict=True):
            new.index_copy_(0, target, before.index_select(0, index))

    def live_tokens(self) -> int:
        """Stored tokens summed over sequences and heads."""
        return sum(sum(row) for row in self._counts)

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
