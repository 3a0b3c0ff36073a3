"""Batches of P identities with K visible and K infrared images each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septet.datamodules.resume import ResumableBatches

Pair = tuple[int, int]


class CrossModalPKBatchSampler(ResumableBatches):
    """Yields lists of P*K pairs (visible index, infrared index); a pure function of (seed, epoch).

    ``official`` draws as the published code does: one random stream kept across epochs, identities anew for each
    batch, images with replacement. ``epoch`` visits each identity once a pass (as many passes as give every identity
    about its share of images), images without replacement where there are K; with several processes a step's
    identities are disjoint and all ranks take equally many steps. Iterating to the end moves on to the next epoch;
    ``set_epoch`` chooses one.

    Args:
        visible_labels: ``(V,)`` labels of the visible images.
        infrared_labels: ``(I,)``.
        p: identities per batch and process.
        k: images per identity and modality.
        mode: ``official`` or ``epoch``.
        seed: of the order.
        rank: this process.
        world_size: number of processes.
        drop_unpaired: leave out identities that one modality lacks.
        cameras: cameras ``(V,)`` and ``(I,)`` of the images; in ``epoch`` mode an identity's K images then come from
            its cameras in turn. None = whatever is next.

    Raises:
        ValueError: unknown mode, cameras in ``official`` mode or of another number than the labels, an identity in one
            modality only, ``p`` (times processes) above the identities.
    """

    def __init__(
        self,
        visible_labels: Any,
        infrared_labels: Any,
        *,
        p: int = 6,
        k: int = 4,
        mode: Literal["official", "epoch"] = "epoch",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_unpaired: bool = False,
        cameras: tuple[Any, Any] | None = None,
    ) -> None:
        visible, infrared = np.asarray(visible_labels).ravel(), np.asarray(infrared_labels).ravel()
        if mode not in ("official", "epoch"):
            raise ValueError(f"unknown mode {mode!r}: choose 'official' or 'epoch'")
        if p < 1 or k < 1:
            raise ValueError(f"p={p}, k={k}: both must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
        super().__init__(max(len(visible), len(infrared)), p * k, seed=seed)
        self.labels = _paired(visible, infrared, drop_unpaired)
        wanted = p * (world_size if mode == "epoch" else 1)
        if wanted > len(self.labels):
            raise ValueError(
                f"p={p} on {world_size} processes asks for {wanted} of {len(self.labels)} identities: "
                f"set p to at most {len(self.labels) * p // wanted}"
            )
        self.p, self.k, self.mode, self.rank, self.world_size = p, k, mode, rank, world_size
        self._cameras = _sides_of_cameras(cameras, (visible, infrared), mode)
        self._positions = [[np.flatnonzero(side == y) for y in self.labels] for side in (visible, infrared)]
        self._states: list[dict[str, Any]] = []
        used = [int(sum(map(len, side))) for side in self._positions]
        self._images = max(used)

    # -- lengths and state ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        total = self._images // (self.p * self.k) + 1
        if self.mode == "official":
            return -(-total // self.world_size)
        return self._passes() * self._steps()

    def _passes(self) -> int:
        return max(1, round(self._images / (len(self.labels) * self.k)))

    def _steps(self) -> int:
        """Steps of a pass."""
        return -(-len(self.labels) // (self.p * self.world_size))

    def state_dict(self) -> dict[str, int]:
        """Epoch and first batch of the next iteration."""
        return {"epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.epoch, self.start = int(state["epoch"]), int(state["start"])

    # -- batches ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[list[Any]]:
        epoch, start, self.start = self.epoch, self.start, 0
        yield from self._mine()[start:]
        self.epoch = epoch + 1

    def _mine(self) -> list[list[Any]]:
        if self.mode == "epoch":
            return self._by_pass(self.epoch)
        batches = self.epoch_batches(self.epoch)
        padded = batches + batches[: -len(batches) % self.world_size]
        return padded[self.rank :: self.world_size]

    def epoch_batches(self, epoch: int) -> list[list[Any]]:
        """All batches of one epoch; in ``epoch`` mode those of this rank."""
        if self.mode == "epoch":
            return self._by_pass(epoch)
        rng = self._official_rng(epoch)
        batches = [self._official_batch(rng) for _ in range(self._images // (self.p * self.k) + 1)]
        if len(self._states) == epoch + 1:
            self._states.append(rng.get_state(legacy=False))
        return batches

    def _official_rng(self, epoch: int) -> np.random.RandomState:
        """The random stream where an epoch begins; earlier epochs are drawn to get there."""
        if not self._states:
            self._states.append(np.random.RandomState(self.seed).get_state(legacy=False))
        while len(self._states) <= epoch:
            self.epoch_batches(len(self._states) - 1)
        rng = np.random.RandomState()
        rng.set_state(self._states[epoch])
        return rng

    def _official_batch(self, rng: np.random.RandomState) -> list[Pair]:
        visible, infrared = self._positions
        place = {int(y): n for n, y in enumerate(self.labels)}
        pairs: list[Pair] = []
        for label in rng.choice(self.labels, self.p, replace=False):
            n = place[int(label)]
            v, i = rng.choice(visible[n], self.k), rng.choice(infrared[n], self.k)
            pairs += zip(v.tolist(), i.tolist(), strict=True)
        return pairs

    def _deck(self, side: int, positions: NDArray[Any], rng: np.random.Generator) -> _Deck | _CameraDecks:
        if self._cameras is None:
            return _Deck(positions, rng)
        return _CameraDecks(positions, self._cameras[side][positions], rng)

    def _by_pass(self, epoch: int) -> list[list[Pair]]:
        """This rank's batches of an epoch: each identity once a pass; a short last step takes the pass' first ones."""
        rng = np.random.default_rng([self.seed, epoch])
        decks = [[self._deck(side, positions, rng) for positions in self._positions[side]] for side in range(2)]
        batches = []
        wide = self.p * self.world_size
        for _ in range(self._passes()):
            order = rng.permutation(len(self.labels))
            order = np.concatenate([order, order[: -len(order) % wide]])
            for start in range(0, len(order), wide):
                drawn = [(decks[0][n].take(self.k), decks[1][n].take(self.k)) for n in order[start : start + wide]]
                mine = drawn[self.rank * self.p : (self.rank + 1) * self.p]
                batches.append([pair for v, i in mine for pair in zip(v, i, strict=True)])
        return batches


class _Deck:
    """An identity's images, dealt without replacement and shuffled anew when fewer than asked are left."""

    def __init__(self, positions: NDArray[Any], rng: np.random.Generator) -> None:
        self.positions, self.rng = positions, rng
        self.left: list[int] = []

    def take(self, k: int) -> list[int]:
        """``k`` images; with replacement if there are fewer."""
        if len(self.positions) < k:
            return [int(i) for i in self.rng.choice(self.positions, k)]
        if len(self.left) < k:
            self.left = [int(i) for i in self.rng.permutation(self.positions)]
        dealt, self.left = self.left[:k], self.left[k:]
        return dealt


class _CameraDecks:
    """An identity's images dealt from its cameras in turn; no image twice in a hand while there are enough."""

    def __init__(self, positions: NDArray[Any], cameras: NDArray[Any], rng: np.random.Generator) -> None:
        self.positions, self.rng = positions, rng
        order = rng.permutation(np.unique(cameras))
        self.sizes = [int((cameras == c).sum()) for c in order]
        self.decks = [_Deck(positions[cameras == c], rng) for c in order]
        self.next = 0

    def take(self, k: int) -> list[int]:
        """``k`` images, the next camera first; with replacement if there are fewer."""
        if len(self.positions) < k:
            return [int(i) for i in self.rng.choice(self.positions, k)]
        hand: list[int] = []
        dealt = [0] * len(self.decks)
        while len(hand) < k:
            camera, self.next = self.next, (self.next + 1) % len(self.decks)
            if dealt[camera] == self.sizes[camera]:
                continue
            image = self.decks[camera].take(1)[0]
            while image in hand:  # the deck was shuffled anew within this hand
                image = self.decks[camera].take(1)[0]
            hand.append(image)
            dealt[camera] += 1
        return hand


def _sides_of_cameras(cameras: Any, sides: tuple[NDArray[Any], NDArray[Any]], mode: str) -> list[NDArray[Any]] | None:
    """Cameras as arrays, checked against the labels."""
    if cameras is None:
        return None
    if mode == "official":
        raise ValueError("mode 'official' draws as published, whatever the cameras: use mode 'epoch' to balance them")
    found = [np.asarray(c).ravel() for c in cameras]
    lengths = [len(c) for c in found], [len(s) for s in sides]
    if lengths[0] != lengths[1]:
        raise ValueError(f"{lengths[0]} cameras for {lengths[1]} images: give one camera per image and modality")
    return found


def _paired(visible: NDArray[Any], infrared: NDArray[Any], drop: bool) -> NDArray[Any]:
    """Sorted labels that both modalities hold."""
    both = np.intersect1d(visible, infrared)
    alone = np.setxor1d(np.unique(visible), np.unique(infrared))
    if len(alone) and not drop:
        raise ValueError(
            f"identities {alone[:10].tolist()} have images of one modality only: complete the data or set drop_unpaired"
        )
    if not len(both):
        raise ValueError("no identity has images of both modalities")
    return both
