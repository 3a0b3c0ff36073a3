"""Ordinary Hugging Face weights, read slice by slice, so that no process ever holds all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INDEX = "model.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"
SLICE_BYTES = 2**24
"""Most bytes of one slice on its way."""


class SlicedCheckpoint(Mapping[str, Tensor]):
    """The tensors of a folder of ``.safetensors`` files (one, or shards with an index), read in slices.

    Files are mapped, not loaded; a slice is materialised when it is asked for and counted. A folder with
    ``pytorch_model*.bin`` files only is mapped by ``torch.load(mmap=True)`` and sliced from there.

    Args:
        folder: as ``save_pretrained`` leaves it.

    Raises:
        ValueError: no weights, a shard of the index that is missing, or a ``.bin`` file that cannot be mapped.

    Attributes:
        bytes_read: bytes materialised so far.
        largest_read: bytes of the largest single slice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_read = self.largest_read = 0
        self._where = _files_by_tensor(folder)
        self._open: dict[Path, Any] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole tensor, without reading it."""
        view = self._view(name)
        return tuple(view.get_shape() if hasattr(view, "get_shape") else view.shape)

    def total_bytes(self) -> int:
        """Bytes of all tensors in the files (headers not counted)."""
        views = (self._view(name) for name in self)
        return sum(_view_bytes(view) for view in views)

    def copy_slices(self, target: Tensor, name: str, rows: Tensor | None, columns: Tensor | None) -> None:
        """Copy chosen rows or columns into ``target``, a contiguous run of at most ``SLICE_BYTES`` at a time.

        Args:
            target: takes the slice, any dtype and device.
            name: of the tensor in the files.
            rows: row indices, None for all.
            columns: column indices of a matrix, None for all.
        """
        view, shape = self._view(name), self.shape(name)
        by_columns = columns is not None and len(shape) == 2
        across = contiguous_runs(columns) if by_columns and columns is not None else [(0, shape[-1])]
        down = [(0, shape[0])] if rows is None or by_columns else contiguous_runs(rows)
        at_column = 0
        for left, right in across:
            at = 0
            for start, stop in _pieces(down, (right - left if len(shape) == 2 else 1) * _item_bytes(view)):
                where = (slice(start, stop), slice(left, right)) if len(shape) == 2 else slice(start, stop)
                into = target[at : at + stop - start]
                part = self._count(view[where])
                (into[:, at_column : at_column + right - left] if len(shape) == 2 else into).copy_(part)
                at += stop - start
            at_column += right - left

    def __getitem__(self, name: str) -> Tensor:
        view = self._view(name)
        return self._count(view[:])

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def _view(self, name: str) -> Any:
        """A lazy slice of safetensors, or a mapped tensor."""
        path = self._where[name]
        if path not in self._open:
            self._open[path] = _open(path)
        handle = self._open[path]
        return handle[name] if isinstance(handle, dict) else handle.get_slice(name)

    def _count(self, part: Tensor) -> Tensor:
        size = part.numel() * part.element_size()
        self.bytes_read += size
        self.largest_read = max(self.largest_read, size)
        return part


def _pieces(parts: list[tuple[int, int]], row_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs cut into pieces of at most ``SLICE_BYTES`` (one row may be larger)."""
    step = max(1, SLICE_BYTES // max(1, row_bytes))
    for start, stop in parts:
        for first in range(start, stop, step):
            yield first, min(first + step, stop)


def contiguous_runs(indices: Tensor) -> list[tuple[int, int]]:
    """Ascending indices as contiguous runs ``[start, stop)``: [4, 5, 6, 9] is (4, 7), (9, 10)."""
    if not len(indices):
        return []
    breaks = torch.nonzero(indices.diff() != 1).flatten() + 1
    parts = indices.tensor_split(breaks.tolist())
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def can_slice(folder: Path) -> bool:
    """Whether the folder holds weights that :class:`SlicedCheckpoint` reads (GGUF files it does not)."""
    return folder.is_dir() and any([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def _files_by_tensor(folder: Path) -> dict[str, Path]:
    """The file of every tensor: from the index where there is one, else from the files themselves."""
    for name in (INDEX, BIN_INDEX):
        if (folder / name).is_file():
            return _from_index(folder / name)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors and no pytorch_model*.bin file")
    return {name: path for path in files for name in _open(path).keys()}  # noqa: SIM118


def _from_index(index: Path) -> dict[str, Path]:
    try:
        table: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights ({error!r}); fetch the model anew") from error
    missing = sorted({file for file in table.values() if not (index.parent / file).is_file()})
    if missing:
        raise ValueError(f"{index.parent} lacks {', '.join(missing)} of its index; fetch the missing shards")
    return {name: index.parent / file for name, file in table.items()}


def _open(path: Path) -> Any:
    """A handle of a safetensors file, or the mapped tensors of a ``.bin`` file.

    Raises:
        ValueError: a file that is damaged or too old to be mapped.
    """
    if path.suffix == ".bin":
        try:
            return torch.load(path, mmap=True, weights_only=True, map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be mapped; save the model anew as safetensors ({error})") from error
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("fairkv needs the kv extra: pip install 'septet[kv]'") from error
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it anew") from error


def _item_bytes(view: Any) -> int:
    """Bytes of one element in the file."""
    return view.element_size() if isinstance(view, Tensor) else _SIZES.get(view.get_dtype(), 2)


def _view_bytes(view: Any) -> int:
    shape = view.shape if isinstance(view, Tensor) else view.get_shape()
    return math.prod(shape) * _item_bytes(view)


_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
