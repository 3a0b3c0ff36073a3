"""A bench under one split as a LightningDataModule: training queries are train columns with their own group hidden."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch.utils.data import DataLoader, Dataset

from septet.datamodules.resume import ResumableBatches, ResumableLoader
from septet.datamodules.scenarios.bench import Bench, load_bench
from septet.datamodules.scenarios.graph import assert_no_leak, build_graph
from septet.datamodules.scenarios.splits import Split, split
from septet.datamodules.scenarios.synthetic import generate_scenarios
from septet.datamodules.scenarios.tensors import Query, allowed_columns, build_memory


class _Columns(Dataset[int]):
    """Column numbers."""

    def __init__(self, columns: list[int]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, item: int) -> int:
        return self.columns[item]


class ScenarioGraph(pl.LightningDataModule):
    """Queries over a memory of results.

    A query reads results of other groups only. Validation columns (the last groups of train) are hidden from training
    queries; test queries read all of train.

    Args:
        bench: traffic_mts, openstl, gift_eval, metagl; ``synthetic`` (generated) or ``records``.
        protocol: lodo, loso, folds, cold, sparse, temporal (see :func:`split`).
        fold: number of the split.
        root: folder of the full tables; None: the shipped compact tables.
        records: JSON Lines file or folder of scenario records (bench ``records``).
        ledger: SQLite ledger whose rows are added to the records.
        task: of the records to take; None: the one with most records.
        metric: likewise.
        batch_size: columns per training batch.
        val_groups: groups held out for validation.
        seed: of shuffling and of the generator.
        generator: arguments of the synthetic bench (models, columns, groups, nested).
        share: of the train columns that ``sparse`` keeps.
        before: date of ``temporal``, such as 2026-06-01: columns whose results are all older train.
        cold_folds: of ``cold``: model names per fold, or a number of folds dealt at random; None: the bench's own.

    Raises:
        ValueError: unknown bench or protocol, a fold out of range, records too few.
    """

    def __init__(
        self,
        bench: str = "traffic_mts",
        protocol: str = "lodo",
        fold: int = 0,
        root: str | None = None,
        records: str | None = None,
        ledger: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        batch_size: int = 64,
        val_groups: int = 1,
        seed: int = 0,
        generator: dict[str, Any] | None = None,
        share: float = 0.5,
        before: str | None = None,
        cold_folds: list[list[str]] | int | None = None,
    ) -> None:
        super().__init__()
        self.bench_name, self.protocol, self.fold, self.root = bench, protocol, fold, root
        self.records, self.ledger, self.task, self.metric = records, ledger, task, metric
        self.batch_size, self.val_groups, self.seed = batch_size, val_groups, seed
        self.generator, self.share, self.before, self.cold_folds = generator or {}, share, before, cold_folds
        self.bench: Bench | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the bench, cut it, and assert that no test result is within reach."""
        if self.bench is not None:
            return
        bench = self._load()
        parts = split(bench, self.protocol, **self._split_options(bench))
        if not 0 <= self.fold < len(parts):
            raise ValueError(
                f"fold is {self.fold}; {self.protocol} of {bench.name} has {len(parts)} (0..{len(parts) - 1})"
            )
        part = parts[self.fold]
        self.graph = self._graph(bench, part)
        groups = list(dict.fromkeys(bench.group[j] for j in part.train))
        if not 0 < self.val_groups < len(groups):
            raise ValueError(
                f"val_groups is {self.val_groups}; {self.protocol}/{part.name} has {len(groups)} data sets to train "
                f"on, one more than that is needed: give records of {self.val_groups + 2} data sets (of task "
                f"{self.task or 'with most records'}), or another task or metric"
            )
        held = set(groups[-self.val_groups :])
        self.val_columns = [j for j in part.train if bench.group[j] in held]
        self.train_columns = [j for j in part.train if bench.group[j] not in held]
        self.test_columns = list(part.test)
        self.memory = build_memory(bench, part)
        self.hidden = torch.unique(self.memory.group[self.val_columns])
        self.bench, self.part = bench, part

    def _split_options(self, bench: Bench) -> dict[str, Any]:
        """Arguments of the protocols that have some."""
        if self.protocol == "sparse":
            return {"p": self.share, "seed": self.seed}
        if self.protocol == "cold":
            return {"folds": self.cold_folds, **({"seed": self.seed} if isinstance(self.cold_folds, int) else {})}
        if self.protocol == "temporal":
            if self.before is None:
                raise ValueError("protocol temporal needs a date: --data.init_args.before 2026-06-01")
            if bench.when is None:
                raise ValueError(f"bench {bench.name!r} carries no dates; temporal takes records with provenance.when")
            return {"when": [date or "9999" for date in bench.when], "t": self.before}
        return {}

    def _load(self) -> Bench:
        if self.bench_name == "synthetic":
            return generate_scenarios(self.seed, **self.generator)
        if self.bench_name == "records":
            from septet.datamodules.scenarios.tables import bench_of_records, collect_records

            found = collect_records(self.records, self.ledger)
            return bench_of_records(found, self.task, self.metric)
        return load_bench(self.bench_name, self.root)

    def _graph(self, bench: Bench, part: Split) -> Any:
        """The heterogeneous graph, checked; None without torch_geometric."""
        try:
            graph = build_graph(bench, part)
        except ImportError:
            return None
        assert_no_leak(graph, bench, part)
        return graph

    def query(self, columns: list[int], *, train: bool = False, epoch: int = 0) -> Query:
        """One batch of columns with what they may read."""
        assert self.bench is not None
        index = torch.tensor(columns, dtype=torch.int64)
        allowed = allowed_columns(self.memory, index, self.hidden if train else None)
        return Query(self.memory, index, allowed, torch.tensor(self.bench.values[:, columns]), epoch)

    def _scored(self, query: Query, *, test: bool) -> Query:
        """Of a cold split: a test counts cold models only (and may read its own columns), validation the others."""
        if self.part.cold:
            cold = torch.zeros(len(query.raw), dtype=torch.bool)
            cold[self.part.cold] = True
            query.raw[~cold if test else cold] = torch.nan
            if test:
                query.allowed = self.memory.seen.any(1)[None].expand_as(query.allowed).clone()
        return query

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Shuffled train columns."""
        batches = ResumableBatches(len(self.train_columns), self.batch_size, seed=self.seed)
        return ResumableLoader(
            _Columns(self.train_columns), batches, collate_fn=lambda c: self.query(c, train=True, epoch=batches.epoch)
        )

    def _whole(self, columns: list[int], *, test: bool) -> EVAL_DATALOADERS:
        return DataLoader(_Columns(columns), batch_size=64, collate_fn=lambda c: self._scored(self.query(c), test=test))

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Columns of the validation groups."""
        return self._whole(self.val_columns, test=False)

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Columns of the fold left out."""
        return self._whole(self.test_columns, test=True)

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """As for test."""
        return self._whole(self.test_columns, test=True)

    def record_dataset(self) -> dict[str, Any]:
        """Name of the bench with the part left out: one part is never compared with a mean over parts."""
        part = f"{self.protocol}/{self.part.name}"
        return {"name": f"{self.bench_name}/{part}", "group": self.bench_name, "split": part}

    def record_scenario(self) -> dict[str, Any]:
        """The task of the run record."""
        return {"task": "model assignment", "modality": "result table", "domain": self.bench_name}
