"""Batches of images that are all wide or all tall, in a resumable order."""

from collections.abc import Sequence

from septet.datamodules.resume import ResumableBatches


class AspectRatioBatches(ResumableBatches):
    """Group images by aspect ratio (as mmdet's AspectRatioBatchSampler) and hand out (epoch, index) pairs.

    Args:
        wide: whether each image is wider than high.
        batch_size: images per batch.
        shuffle: permute images by (seed, epoch).
        seed: of the order.
        drop_last: drop the short last batches; otherwise the two groups' left-overs are joined.
    """

    def __init__(
        self, wide: Sequence[bool], batch_size: int, *, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__(len(wide), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
        self.wide = list(wide)
        self._single = ResumableBatches(len(wide), 1, shuffle=shuffle, seed=seed)

    def epoch_batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """All batches of one epoch, each of one group but for the last."""
        full: list[list[tuple[int, int]]] = []
        open_batches: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for (index,) in self._single.epoch_batches(epoch):
            group = open_batches[self.wide[index]]
            group.append((epoch, index))
            if len(group) == self.batch_size:
                full.append(list(group))
                group.clear()
        rest = open_batches[False] + open_batches[True]
        if not self.drop_last:
            full += [rest[i : i + self.batch_size] for i in range(0, len(rest), self.batch_size)]
        return full
