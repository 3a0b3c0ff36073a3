"""Event streams as a LightningDataModule: splits, negatives, structure features and batches of links."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch import Tensor
from torch.utils.data import DataLoader

from septet.datamodules.resume import ResumableBatches, ResumableLoader
from septet.datamodules.temporal_graph.batches import EvaluationBatches, LinkBatch, LinkDataset, Links, WholeBatches
from septet.datamodules.temporal_graph.events import EventStream, distinct_ids
from septet.datamodules.temporal_graph.negatives import STRATEGIES, NegativeSampler, Strategy, batched_negatives
from septet.datamodules.temporal_graph.online import OnlineLinks, training_chunks
from septet.datamodules.temporal_graph.predictions import prediction_links
from septet.datamodules.temporal_graph.readers import FORMATS, read_events
from septet.datamodules.temporal_graph.splits import Splits, dyglib_split, tgb_split
from septet.datamodules.temporal_graph.structure import StructureSpec, StructureStates, check_cache_dir
from septet.datamodules.temporal_graph.synthetic import powerlaw_events, synthetic_events
from septet.datamodules.temporal_graph.tgb import Lists, hist_rnd_lists, list_path, listed_negatives, load_lists
from septet.datamodules.temporal_graph.tgb_files import negative_pattern
from septet.kernels.hashing import TemporalNeighborIndex

GENERATORS: dict[str, Callable[..., EventStream]] = {"synthetic": synthetic_events, "powerlaw": powerlaw_events}
SEEDS = {"val": 0, "new_val": 1, "test": 2, "new_test": 3}
"""Seeds of the evaluation negatives, fixed by the DyGLib protocol."""


class TemporalGraphEvents(pl.LightningDataModule):
    """Link prediction on a stream of events.

    Features depend on the stream alone, so those of the evaluation parts are computed once and those of training once
    an epoch, from an empty memory; validation starts from the state after training (A), test from the state after
    validation (B). Yields :class:`LinkBatch`; loaders of validation and test are [all events, events of new nodes].

    Args:
        source: ``synthetic`` or ``powerlaw`` (generated), or the format of ``path``: auto, dyglib, jodie, snap, csv,
            npz, npy (a folder of columns, mapped into memory), tgb, parquet.
        path: file of events.
        protocol: ``dyglib`` (a tenth of the nodes hidden from training) or ``tgb`` (none hidden, fixed negative lists).
        structure: settings of the hash memory, or None for models without it.
        negatives: evaluation negatives, ``random``, ``historical`` or ``inductive``.
        num_negatives: negatives per event in evaluation; training takes one.
        test_negatives: further kinds of negatives that ``test`` evaluates besides ``negatives`` (DyGLib's protocol).
        batch_size: events per batch.
        shuffle: shuffle the training batches (features stay exact: they do not depend on batches).
        new_nodes: how new-node parts are streamed: ``alone`` (DyGLib) or ``in_stream`` (all events written).
        cache_dir: keep evaluation features there, memory-mapped.
        seed: of training negatives and the shuffle.
        predict_path: pairs u,i,ts to score, in the ids of the stream's own file; default the test events.
        generator: arguments of the generated sources, such as num_events.
        compact: number the ids of a file anew.
        length: sequence length when ``structure`` is None.
        negative_lists: TGB's pickles, with ``{split}`` for val or test, 0-based ids; default: those beside a ``tgb``
            source, else drawn by ``hist_rnd``.
        val_ratio: share of events, by time, for validation.
        test_ratio: share of events, by time, for test.
        new_node_ratio: share of nodes hidden from training (DyGLib's protocol).
        features: ``cached`` computes those of a training epoch before its first batch; ``online`` while the model
            trains, a few chunks ahead in a background thread, bit for bit the same: for streams whose features do not
            fit into memory.

    Raises:
        ValueError: see the fields; FileNotFoundError for a missing file.
    """

    def __init__(
        self,
        source: str = "synthetic",
        path: str | None = None,
        protocol: Literal["dyglib", "tgb"] = "dyglib",
        structure: StructureSpec | None = StructureSpec(),  # noqa: B008 - read only
        negatives: Strategy = "random",
        num_negatives: int = 1,
        batch_size: int = 200,
        shuffle: bool = False,
        new_nodes: Literal["alone", "in_stream"] = "alone",
        cache_dir: str | None = None,
        seed: int = 0,
        predict_path: str | None = None,
        generator: dict[str, Any] | None = None,
        compact: bool = False,
        length: int = 20,
        negative_lists: str | None = None,
        val_ratio: float = 0.15,
        test_ratio: float = 0.15,
        new_node_ratio: float = 0.1,
        features: Literal["cached", "online"] = "cached",
        test_negatives: list[str] = [],  # noqa: B006 - read only
    ) -> None:
        super().__init__()
        self.source, self.path, self.protocol, self.structure = source, path, protocol, structure
        self.negatives, self.num_negatives, self.batch_size = negatives, num_negatives, batch_size
        self.shuffle, self.new_nodes, self.cache_dir, self.seed = shuffle, new_nodes, cache_dir, seed
        self.predict_path, self.generator, self.compact = predict_path, dict(generator or {}), compact
        self.length = length if structure is None else structure.length
        self.val_ratio, self.test_ratio, self.new_node_ratio = val_ratio, test_ratio, new_node_ratio
        self.features = features
        self.test_negatives = [name for name in dict.fromkeys(test_negatives) if name != negatives]
        self.part_names: dict[str, list[str]] = {}
        self.negative_lists, self._lists = negative_lists, dict[str, Lists]()
        self._check()
        self._stream: EventStream | None = None
        self._targets: Tensor | None = None
        self._served: LinkDataset | None = None
        self._links: dict[tuple[str, str], Links] = {}

    def _check(self) -> None:
        """Raise ValueError for settings that can never work."""
        if self.source not in GENERATORS and self.source not in FORMATS:
            raise ValueError(f"unknown source {self.source!r}: choose {', '.join([*GENERATORS, *FORMATS])}")
        if self.source in FORMATS and self.path is None:
            raise ValueError(f"source {self.source!r} needs a path")
        if self.protocol not in ("dyglib", "tgb"):
            raise ValueError(f"unknown protocol {self.protocol!r}: choose 'dyglib' or 'tgb'")
        for name in (self.negatives, *self.test_negatives):
            if name not in STRATEGIES:
                raise ValueError(f"unknown negatives {name!r}: choose one of {', '.join(STRATEGIES)}")
        if self.test_negatives and self.protocol == "tgb":
            raise ValueError("test_negatives belong to protocol 'dyglib': TGB's lists of negatives are fixed")
        if self.negative_lists is not None:
            if self.protocol != "tgb":
                raise ValueError("negative_lists belong to protocol 'tgb': set protocol, or drop negative_lists")
            list_path(self.negative_lists, "val")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative: give 0 or more")
        if self.new_nodes not in ("alone", "in_stream"):
            raise ValueError(f"unknown new_nodes {self.new_nodes!r}: choose 'alone' or 'in_stream'")
        if self.features not in ("cached", "online"):
            raise ValueError(f"unknown features {self.features!r}: choose 'cached' or 'online'")
        if self.features == "online" and self.shuffle:
            raise ValueError("features 'online' follow the stream: set shuffle=False, or features 'cached'")
        if self.structure is not None:
            self.structure.check()
        for name in ("num_negatives", "batch_size", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1")

    # -- preparation ------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fail early when a file is absent."""
        for path in (self.path if self.source in FORMATS else None, self.predict_path):
            if path is not None and not Path(path).exists():
                raise FileNotFoundError(f"no event file {path}: check the path, or set SEPTET_DATA")
        if self.cache_dir is not None:
            check_cache_dir(self.cache_dir)

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the stream and build both neighbour indices; once."""
        if self._stream is not None:
            return
        self.prepare_data()
        stream = self._read()
        ratios = (self.val_ratio, self.test_ratio)
        self.splits: Splits = (
            dyglib_split(stream, *ratios, self.new_node_ratio)
            if self.protocol == "dyglib"
            else tgb_split(stream, *ratios)
        )
        train = self.splits.train
        src, dst, time = stream.src, stream.dst, stream.time
        self.full_index = self.train_index = TemporalNeighborIndex(src, dst, time, num_nodes=stream.nodes)
        if int(train[-1]) + 1 != len(train):  # else training holds all events up to its end: both indices agree there
            self.train_index = TemporalNeighborIndex(src[train], dst[train], time[train], train + 1, stream.nodes)
        self.states: StructureStates | None = None
        if self.structure is not None:
            self._warn(stream, self.structure)
            self.states = StructureStates(
                stream, self.structure, train, self.splits.val, self.train_index, self.full_index, self.cache_dir
            )
        self._stream = stream
        if stage in (None, "fit") and self._given_lists() is not None:  # a bad list must not show itself after training
            for part in ("val", "test"):
                self._evaluation_negatives(part, getattr(self.splits, part), self.negatives)

    def _read(self) -> EventStream:
        """The stream of the configured source."""
        if self.source in GENERATORS:
            try:
                return GENERATORS[self.source](**self.generator)
            except TypeError as error:
                raise ValueError(f"data.init_args.generator {self.generator}: {error}") from error
        assert self.path is not None
        stream = read_events(self.path, self.source, compact=self.compact)
        stream.warn_if_sparse()
        return stream

    @staticmethod
    def _warn(stream: EventStream, structure: StructureSpec) -> None:
        """Warn where the settings of the memory do not suit the stream."""
        tied = float((stream.time[1:] == stream.time[:-1]).float().mean()) if len(stream) > 1 else 0.0
        if structure.granularity == "event" and tied > 0.1:
            warnings.warn(
                f"{tied:.0%} of the events share a time with the one before and granularity 'event' lets tied events "
                "see each other in file order: use 'timestamp'",
                UserWarning,
                stacklevel=2,
            )

    @property
    def stream(self) -> EventStream:
        """The stream; :meth:`setup` has read it."""
        if self._stream is None:
            self.setup()
        assert self._stream is not None
        return self._stream

    # -- links of the parts -----------------------------------------------------------------------------------------

    def train_links(self, epoch: int) -> Links:
        """Training events and the negatives of an epoch, a pure function of (seed, epoch)."""
        stream, train = self.stream, self.splits.train
        rng = np.random.default_rng((self.seed, epoch))
        targets = self.train_targets()
        drawn = targets[torch.from_numpy(rng.integers(0, len(targets), len(train)))]
        pair_dst = torch.stack([stream.dst[train], drawn], 1)
        pair_src = stream.src[train].unsqueeze(1).expand_as(pair_dst).contiguous()
        features = (None, None) if self.states is None else self.states.train_features(pair_src, pair_dst)
        return Links(pair_src, pair_dst, stream.time[train], train + 1, self.train_index, self.length, *features)

    def train_targets(self) -> Tensor:
        """Distinct destinations of the training events, increasing: the pool of training negatives."""
        if self._targets is None:
            self._targets = distinct_ids(self.stream.dst[self.splits.train], self.stream.nodes)
        return self._targets

    def evaluation_links(self, part: str, negatives: str | None = None) -> Links:
        """Links of ``val``, ``test``, ``new_val`` or ``new_test``; computed once.

        Args:
            part: name of the part.
            negatives: kind of negatives; default the configured one.
        """
        kind = negatives or self.negatives
        if (part, kind) not in self._links:
            stream, positions = self.stream, getattr(self.splits, part)
            src, dst, time = stream.src[positions], stream.dst[positions], stream.time[positions]
            neg_src, neg_dst = self._evaluation_negatives(part, positions, kind)
            pair_src = torch.cat([src.unsqueeze(1), neg_src], 1)
            pair_dst = torch.cat([dst.unsqueeze(1), neg_dst], 1)
            asked = torch.where(pair_dst == 0, pair_dst[:, :1], pair_dst)  # 0: a list shorter than the longest
            features = self._evaluation_features(part, kind, positions, pair_src, asked)
            links = Links(pair_src, pair_dst, time, positions + 1, self.full_index, self.length, *features)
            self._links[part, kind] = links
        return self._links[part, kind]

    def _evaluation_negatives(self, part: str, positions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Negatives ``(E, K)``: from the whole stream, or for new-node parts from their own events."""
        stream = self.stream
        if self.protocol == "tgb":
            return self._listed_negatives(part, positions)
        pool = positions if part.startswith("new") else slice(None)
        end = self.splits.train if part.endswith("val") else self.splits.val
        sampler = NegativeSampler(
            stream.src[pool], stream.dst[pool], stream.time[pool],
            strategy=cast("Strategy", kind), seed=SEEDS[part], last_observed_time=stream.time[end[-1]].item(),
        )  # fmt: skip
        batch = stream.src[positions], stream.dst[positions], stream.time[positions]
        return batched_negatives(sampler, *batch, self.batch_size, self.num_negatives)

    def _listed_negatives(self, part: str, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Negatives of TGB's fixed lists: those of ``negative_lists``, else drawn by its rule ``hist_rnd``."""
        stage, given = part.removeprefix("new_"), self._given_lists()
        name = "the drawn lists" if given is None else list_path(given, stage)
        if stage not in self._lists:
            self._lists[stage] = (
                hist_rnd_lists(self.stream, self.splits, stage, self.num_negatives, SEEDS[stage])
                if given is None
                else load_lists(name)
            )
        src, dst, time = (c[positions] for c in (self.stream.src, self.stream.dst, self.stream.time))
        base, nodes = (1 if given is None else 0), self.stream.nodes
        return listed_negatives(self._lists[stage], src, dst, time, id_base=base, num_nodes=nodes, name=name)

    def _given_lists(self) -> str | None:
        """Pattern of the lists that are read; None where they are drawn or the protocol has none."""
        if self.protocol == "tgb" and self.negative_lists is None and self.source == "tgb" and self.path is not None:
            return negative_pattern(Path(self.path))
        return self.negative_lists

    def _evaluation_features(
        self, part: str, kind: str, positions: Tensor, pair_src: Tensor, pair_dst: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Features of a part, streamed from state A (validation) or B (test)."""
        if self.states is None:
            return None, None
        state, key = ("A" if part.endswith("val") else "B"), f"{part}-{kind}"
        if not part.startswith("new") or self.new_nodes == "alone":
            return self.states.evaluation_features(state, positions, pair_src, pair_dst, key)
        whole = self.splits.val if part == "new_val" else self.splits.test
        columns = pair_src.shape[1]
        all_src = self.stream.src[whole].unsqueeze(1).repeat(1, columns)
        all_dst = self.stream.dst[whole].unsqueeze(1).repeat(1, columns)
        place = torch.searchsorted(whole, positions)
        all_src[place], all_dst[place] = pair_src, pair_dst
        src_feat, dst_feat = self.states.evaluation_features(state, whole, all_src, all_dst, f"{key}-in_stream")
        return src_feat[place], dst_feat[place]

    # -- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Training batches, in stream order unless shuffled."""
        size = len(self.splits.train)
        online = self.features == "online" and self.states is not None
        dataset = LinkDataset(self._online_links if online else self.train_links, size)
        self._served = dataset
        dataset.batches = ResumableBatches(size, self.batch_size, shuffle=self.shuffle, seed=self.seed)
        return ResumableLoader(dataset, dataset.batches, collate_fn=_as_is)

    def _online_links(self, epoch: int) -> OnlineLinks:
        """Links of an epoch, made while they are read."""
        return OnlineLinks(lambda first: training_chunks(self, epoch, first))

    def teardown(self, stage: str) -> None:
        """End the thread that computes features."""
        if self._served is not None:
            self._served.close()

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Validation events, then those of new nodes."""
        return self._evaluation_loaders("val")

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Test events, then those of new nodes, then test events with the further kinds of negatives."""
        return self._evaluation_loaders("test")

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Pairs of ``predict_path``, or the test events."""
        links = prediction_links(self, self.predict_path)
        return DataLoader(WholeBatches(links, self.batch_size), batch_size=None)

    def _evaluation_loaders(self, stage: str) -> list[ResumableLoader]:
        """One loader per part that holds events; their prefixes of metrics go into ``part_names``."""
        parts: dict[str, tuple[str, str]] = {"": (stage, self.negatives), "new_": (f"new_{stage}", self.negatives)}
        parts |= {f"{kind}_": (stage, kind) for kind in (self.test_negatives if stage == "test" else [])}
        parts = {prefix: part for prefix, part in parts.items() if len(getattr(self.splits, part[0]))}
        self.part_names[stage] = list(parts)
        loaders = []
        for part, kind in parts.values():
            links = self.evaluation_links(part, kind)
            dataset = LinkDataset(lambda _, links=links: links, len(links.time))  # type: ignore[misc]
            batches = EvaluationBatches(len(links.time), self.batch_size)
            loaders.append(ResumableLoader(dataset, batches, collate_fn=_as_is))
        return loaders

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a :class:`LinkBatch`; on the CPU nothing is copied."""
        if isinstance(batch, LinkBatch):
            return batch if device.type == "cpu" else batch.to(device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    # -- records and checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must know about the features: the settings, never the tables."""
        return {"structure": None if self.structure is None else asdict(self.structure), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn when a checkpoint was trained on features of other settings."""
        now = self.state_dict()["structure"]
        if state_dict.get("structure") != now:
            warnings.warn(
                f"the checkpoint was trained with structure {state_dict.get('structure')}, now {now}",
                UserWarning,
                stacklevel=2,
            )

    def record_dataset(self) -> str:
        """Name of the data set in records."""
        return self.stream.name or "events"

    def record_scenario(self) -> dict[str, Any]:
        """Scenario of the record."""
        return {"task": "dynamic link prediction", "modality": "event stream", "horizon": "next event"}

    def record_protocol(self) -> dict[str, Any]:
        """What a figure depends on besides the model."""
        return {
            "split": self.protocol,
            "negatives": self.negatives,
            "num_negatives": self.num_negatives,
            "batch_size": self.batch_size,
            "structure": None if self.structure is None else asdict(self.structure),
        }


def _as_is(batch: LinkBatch) -> LinkBatch:
    """The data set already returns whole batches."""
    return batch
