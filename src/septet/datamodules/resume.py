"""Batches as a pure function of (seed, epoch), so that a run resumes in the middle of an epoch exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class ResumableBatches(Sampler[list[int]]):
    """A batch sampler that can begin anywhere in an epoch.

    Under ``torch.distributed`` each rank takes every world-th batch; the list is padded by its first batches so that
    all ranks take equally many.

    Args:
        num_items: size of the data set.
        batch_size: items per batch.
        shuffle: permute items by a generator seeded with (seed, epoch).
        seed: of the order.
        drop_last: drop the short last batch.

    Raises:
        ValueError: if ``num_items`` or ``batch_size`` is below 1.
    """

    def __init__(
        self, num_items: int, batch_size: int, *, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> None:
        if num_items < 1:
            raise ValueError(f"num_items is {num_items}: the training set is empty; check the data path and the split")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.num_items, self.batch_size = num_items, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> ResumableBatches:
        """Lightning looks for ``batch_sampler.sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are drawn next."""
        self.epoch = epoch

    def epoch_batches(self, epoch: int) -> list[list[Any]]:
        """All batches of one epoch, for all ranks together; override for another order."""
        order = torch.arange(self.num_items)
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            order = torch.randperm(self.num_items, generator=generator)
        batches = [chunk.tolist() for chunk in order.split(self.batch_size)]
        return batches[:-1] if self.drop_last and len(batches[-1]) < self.batch_size else batches

    def _mine(self) -> list[list[Any]]:
        batches = self.epoch_batches(self.epoch)
        rank, world = rank_and_world()
        if world == 1:
            return batches
        padded = batches + batches[: -len(batches) % world]
        return padded[rank::world]

    def __iter__(self) -> Iterator[list[Any]]:
        start, self.start = self.start, 0
        yield from self._mine()[start:]

    def __len__(self) -> int:
        return len(self._mine())


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over :class:`ResumableBatches` whose position travels in Lightning's checkpoints.

    Workers start at the first ``next``, after Lightning has set the epoch, and seeds come from a generator of its
    own: iterating never touches the global random state. Use a plain DataLoader for ``predict``, where Lightning builds
    batch samplers anew, and do not ask for ``trainer.estimated_stepping_batches`` in ``configure_optimizers``: it would
    begin the epoch before a checkpoint's position is restored.
    """

    def __init__(self, dataset: Dataset[Any], batches: ResumableBatches, **kwargs: Any) -> None:
        super().__init__(
            dataset, batch_sampler=batches, generator=torch.Generator().manual_seed(batches.seed), **kwargs
        )
        self.batches = batches
        self._position = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._position = self.batches.start
        for batch in super().__iter__():
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Number of batches handed out in the current epoch."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration after the batches already handed out (0 if the epoch was complete)."""
        position = int(state["position"])
        self.batches.start = position if position < len(self) else 0


def rank_and_world() -> tuple[int, int]:
    """This process' rank and the number of processes; (0, 1) outside torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
