"""Long prompts with short answers: recall, needles, RULER and LongBench files, a user's own prompts."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from septet.datamodules.long_context import recall
from septet.datamodules.long_context.checks import check_names, check_sizes
from septet.datamodules.long_context.lessons import FINISHED, PASSED, Kind, lesson, level, varied
from septet.datamodules.long_context.readers import Sample, read_haystack, read_longbench, read_prompts, read_ruler
from septet.datamodules.long_context.synthetic import needle_samples
from septet.datamodules.long_context.tokenizers import Tokenizer, make_tokenizer
from septet.datamodules.resume import ResumableBatches, ResumableLoader

PREDICT_TOKENS = 64
"""Generation length of a user's own prompts, whether or not they come with answers."""
Batch = dict[str, Any]
_BLANK: Batch = {"depth": float("nan"), "answers": (), "prefix": "", "all_classes": (), "max_new_tokens": 0}


class LongContextText(LightningDataModule):
    """Prompts, answers and where the needle lies.

    Batch: ``input_ids`` (B, T) prompt and answer, left padded; ``labels`` (B, T) with -100 off the answer;
    ``attention_mask`` (B, T); ``depth`` (B,); ``answers`` list of tuples; further ``task``, ``length`` (nominal),
    ``prefix``, ``sample`` (a stable name), ``all_classes`` and ``max_new_tokens`` (0: the labels are scored with the
    answers fed, else the answer is generated).

    Args:
        task: "recall", "needle", "ruler_jsonl" or "longbench_jsonl".
        root: file of the JSONL tasks; folder or file of ``tinyshakespeare.txt`` for the "text" haystack.
        tokenizer: "bytes", a model folder, or "smollm2" (recall has a vocabulary of its own).
        context_length: tokens of a prompt at most, or a list of them; needle training with a list starts at the
            shortest and goes on at an accuracy of .98 (ends at .998), with as many tokens a batch; every other batch
            then has a length, haystack and needle at random.
        depths: places of the needle, used in turn; None: uniform.
        haystack: "noise", "pairs" or "text".
        batch_size: sequences of an evaluation batch, and of training except in recall's curriculum.
        seed: of the data.
        chat_template: wrap the prompt into the model's chat template.
        answer_prefix: given start of the answer; ``{key}`` and ``{type}`` are filled in.
        needle: "numbers", "words" or "uuids".
        n_pairs: facts in a needle prompt.
        num_samples: prompts per context length.
        n_questions: questions of a recall test, and of a training prompt of the needle task.
        listed: recall names the asked keys before it asks (False: the compression cannot know the questions).
        steps_per_epoch: training batches per epoch.
        workers: processes that prepare training batches.
        max_new_tokens: generation length; 0: what the benchmark says, or the longest answer; 64 for own prompts.
        prompts: text or JSONL file for ``predict``.

    Raises:
        ValueError: an unknown task, haystack or needle, no context length or depth, sizes below one.
    """

    def __init__(
        self,
        task: str = "recall",
        root: str | None = None,
        tokenizer: str = "bytes",
        context_length: int | list[int] = 512,
        depths: list[float] | None = None,
        haystack: str = "noise",
        batch_size: int = 16,
        seed: int = 0,
        chat_template: bool = False,
        answer_prefix: str = "",
        needle: str = "numbers",
        n_pairs: int = 1,
        num_samples: int = 64,
        n_questions: int = 4,
        listed: bool = True,
        steps_per_epoch: int = 25,
        max_new_tokens: int = 0,
        prompts: str | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.lengths = [context_length] if isinstance(context_length, int) else list(context_length)
        check_names(task, haystack, needle)
        check_sizes(
            self.lengths, depths, batch_size=batch_size, num_samples=num_samples, n_pairs=n_pairs,
            n_questions=n_questions, steps_per_epoch=steps_per_epoch, max_new_tokens=max_new_tokens or 1,
        )  # fmt: skip
        self.task, self.root, self.tokenizer_name = task, root, tokenizer
        self.depths, self.haystack, self.batch_size, self.seed = depths, haystack, batch_size, seed
        self.chat_template, self.answer_prefix, self.needle, self.n_pairs = (
            chat_template,
            answer_prefix,
            needle,
            n_pairs,
        )
        self.num_samples, self.n_questions, self.listed = num_samples, n_questions, listed
        self.steps_per_epoch, self.max_new_tokens, self.prompts = steps_per_epoch, max_new_tokens, prompts
        self.stage, self.workers = 0, workers
        self._tokenizer: Tokenizer | None = None
        self._rows: dict[str, list[Batch]] = {}
        self._warned = False

    # -- curriculum -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's stage."""
        return {"stage": self.stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the stage back."""
        self.stage = int(state_dict["stage"])

    def _thresholds(self) -> list[float]:
        """Accuracy that ends each stage of the curriculum; empty without one."""
        if self.task == "recall":
            return [stage.threshold for stage in recall.CURRICULUM]
        several = self.task == "needle" and len(self.lengths) > 1
        return [PASSED] * (len(self.lengths) - 1) + [FINISHED] if several else []

    def advance(self, accuracy: float) -> bool:
        """Go to the next stage if an epoch's training accuracy allows; True once the last stage is passed."""
        thresholds = self._thresholds()
        passed = bool(thresholds) and accuracy >= thresholds[self.stage]
        if passed and self.stage < len(thresholds) - 1:
            self.stage += 1
            return False
        return passed

    # -- samples ----------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, made at first use."""
        if self._tokenizer is None:
            self._tokenizer = make_tokenizer(self.tokenizer_name)
        return self._tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids; recall's symbols are printed as numbers."""
        return " ".join(str(i) for i in ids) if self.task == "recall" else self.tokenizer.decode(ids)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return () if self.task == "recall" else self.tokenizer.stop_ids

    @property
    def largest_id(self) -> int:
        """Largest token id that a model must know: of the fixed vocabularies, else found in the prompts so far."""
        own = self.task == "recall" and "predict" not in self._rows
        if own or self.tokenizer_name == "bytes":
            return (recall.VOCABULARY if own else self.tokenizer.vocab_size) - 1
        return max((int(row["ids"].max()) for rows in self._rows.values() for row in rows), default=0)

    @property
    def num_test_rows(self) -> int:
        """Prompts of the test set (0 before ``setup``)."""
        return len(self._rows.get("test", ()))

    def setup(self, stage: str) -> None:
        """Build the rows of a stage."""
        if stage == "predict" and self.prompts:
            self._rows["predict"] = [self._row(s, 0, i) for i, s in enumerate(read_prompts(self.prompts))]
            for row in self._rows["predict"]:
                row["max_new_tokens"] = self.max_new_tokens or PREDICT_TOKENS
            return
        seed = self.seed + {"fit": 500_000, "validate": 500_000}.get(stage, 0)
        key = "val" if stage in ("fit", "validate") else "test"
        if key not in self._rows:
            self._rows[key] = self._build(seed)

    def _build(self, seed: int) -> list[Batch]:
        if self.task == "recall":
            return [self._recall_row(length, i, seed) for length in self.lengths for i in range(self.num_samples)]
        rows = []
        for length in self.lengths:
            samples = self._samples(length, seed)
            rows += [self._row(sample, length, i) for i, sample in enumerate(samples)]
        return rows

    def _recall_row(self, length: int, index: int, seed: int) -> Batch:
        ids, labels = recall.evaluation_row(index, length, self.n_questions, seed, self.listed)
        name = f"recall/{length}/{seed}/{index}"
        return {**_BLANK, "ids": ids, "labels": labels, "task": "recall", "length": length, "sample": name}

    def _samples(self, length: int, seed: int) -> list[Sample]:
        if self.task != "needle":
            if self.root is None:
                raise ValueError(f"task {self.task!r} needs root: the path of its .jsonl file")
            read = read_ruler if self.task == "ruler_jsonl" else read_longbench
            return read(self.root, limit=self.num_samples)
        return self._needles(self.num_samples, length, seed)

    def _needles(self, count: int, length: int, seed: int) -> list[Sample]:
        """Needle prompts of at most ``length`` tokens each."""
        characters = self._characters(length, self.seed)
        while True:
            samples = [self._needle(sample) for sample in self._generate(count, characters, seed)]
            over = max((len(self._prompt_ids(sample)) for sample in samples), default=0) - length
            if over <= 0:
                return samples
            characters -= over

    def _generate(self, count: int, characters: int, seed: int) -> list[Any]:
        return needle_samples(
            count,
            length=characters,
            haystack=self.haystack,
            needle=self.needle,
            depth=self.depths,
            n_pairs=self.n_pairs,
            seed=seed,
            text=self._text(),
        )

    def _needle(self, sample: Any) -> Sample:
        prefix = self.answer_prefix.format(key=sample.key, type=self.needle[:-1])
        return Sample(sample.prompt, (sample.answer,), "needle", sample.depth, prefix=prefix)

    def _text(self) -> str | None:
        return read_haystack(self.root) if self.haystack == "text" else None

    def _characters(self, length: int, seed: int) -> int:
        """Context characters whose whole prompt has about 98 % of ``length`` tokens."""
        characters = length
        for _ in range(4):
            used = max(len(self._prompt_ids(self._needle(s))) for s in self._generate(2, max(characters, 64), seed))
            if 0.955 * length <= used <= length:
                break
            characters = max(64, round(characters * 0.98 * length / used))
        return max(characters, 64)

    def _prompt_ids(self, sample: Sample) -> list[int]:
        text = self.tokenizer.chat(sample.prompt) if self.chat_template and sample.chat else sample.prompt
        if sample.prefix and not text.endswith(("\n", " ")):
            text += " "
        return self.tokenizer.encode(text + sample.prefix)

    def _row(self, sample: Sample, length: int, index: int) -> Batch:
        prompt = self._cut(self._prompt_ids(sample), length)
        answer = self.tokenizer.encode(f" {sample.answers[0]}") if sample.answers else []
        ids = torch.tensor(prompt + answer)
        labels = torch.full_like(ids, recall.IGNORE)
        labels[len(prompt) :] = ids[len(prompt) :]
        return {
            **_BLANK,
            "ids": ids,
            "labels": labels,
            "depth": sample.depth,
            "answers": sample.answers,
            "task": sample.task,
            "length": length or len(prompt),
            "prefix": sample.prefix,
            "sample": f"{sample.task}/{length}/{self.seed}/{index}",
            "all_classes": sample.all_classes,
            "max_new_tokens": self.max_new_tokens
            or sample.max_new_tokens
            or (len(answer) + 4 if answer else PREDICT_TOKENS),
        }

    def _cut(self, ids: list[int], length: int) -> list[int]:
        """Drop the middle of a prompt that is too long (LongBench's rule), with one warning."""
        if not length or len(ids) <= length:
            return ids
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a prompt of {len(ids)} tokens exceeds context_length {length}; its middle is cut", stacklevel=2
            )
        half = length // 2
        return ids[: length - half] + ids[len(ids) - half :]

    # -- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless fresh batches; the curriculum for recall, generated needles for "needle".

        Raises:
            ValueError: for tasks that are read from files.
        """
        if self.task not in ("recall", "needle"):
            raise ValueError(f"task {self.task!r} is for evaluation; train on 'recall' or 'needle'")
        batches = _Numbered(self.steps_per_epoch, 1, seed=self.seed)
        return ResumableLoader(_Training(self), batches, num_workers=self.workers, collate_fn=_first)

    def _loader(self, key: str) -> DataLoader[Any]:
        return DataLoader(_Rows(self._rows[key]), batch_size=self.batch_size, shuffle=False, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[Any]:
        """Fixed validation rows."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Fixed test rows."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The user's prompts, or the test rows."""
        return self._loader("predict" if "predict" in self._rows else "test")

    def collate(self, rows: Sequence[Batch]) -> Batch:
        """Left pad and stack; see the class."""
        longest = max(len(row["ids"]) for row in rows)
        pad = recall.PAD if self.task == "recall" else self.tokenizer.pad_id
        ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), recall.IGNORE)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for b, row in enumerate(rows):
            start = longest - len(row["ids"])
            ids[b, start:], labels[b, start:], mask[b, start:] = row["ids"], row["labels"], 1
        batch: Batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch["depth"] = torch.tensor([row["depth"] for row in rows])
        for name in ("answers", "task", "length", "prefix", "sample", "all_classes"):
            batch[name] = [row[name] for row in rows]
        batch["max_new_tokens"] = max(row["max_new_tokens"] for row in rows)
        return batch

    def training_batch(self, epoch: int, index: int) -> Batch:
        """One training batch, a pure function of (seed, stage, epoch, index)."""
        if self.task == "recall":
            return dict(recall.training_batch(self.stage, epoch, index, self.seed))
        lengths = sorted(self.lengths)
        seed = (self.seed + 1) * 7_919 + epoch * self.steps_per_epoch + index
        whole = self._characters(lengths[self.stage], self.seed)
        kind = Kind(whole, self.haystack, self.needle, self.n_pairs)
        if len(lengths) > 1 and index % 2:
            kind = varied(lengths[0] // 2, whole, seed)
        tokens = lengths[self.stage] * kind.length // whole
        return self._lessons(min(self.batch_size * lengths[-1] // tokens, max(64, self.batch_size)), kind, seed)

    def _lessons(self, count: int, kind: Kind, seed: int) -> Batch:
        """A training batch of prompts with several questions."""
        options = {**kind._asdict(), "depth": self.depths, "seed": seed, "text": self._text()}
        rows = []
        for i, sample in enumerate(needle_samples(count, **options)):
            text = self.tokenizer.chat(sample.prompt) if self.chat_template else sample.prompt
            rows.append(
                lesson(sample, text, self.answer_prefix, kind.needle, self.n_questions, seed + i, self.tokenizer.encode)
            )
        return self.collate(
            [
                {
                    **_BLANK,
                    "ids": ids,
                    "labels": labels,
                    "task": "needle",
                    "length": kind.length,
                    "sample": f"{seed}/{i}",
                }
                for i, (ids, labels) in enumerate(level(rows, self.tokenizer.encode("\n")))
            ]
        )

    # -- record -----------------------------------------------------------------------------------------------------

    def record_dataset(self) -> dict[str, Any]:
        """Data set of the record."""
        name = Path(self.root).stem if self.task.endswith("jsonl") and self.root else self.task
        detail = f"{self.haystack}-{self.needle}" if self.task == "needle" else self.task
        return {"name": name, "version": detail, "split": "test", "features": {"context_length": max(self.lengths)}}

    def record_scenario(self) -> dict[str, Any]:
        """Scenario of the record."""
        return {"task": "long-context retrieval", "modality": "text", "domain": self.task}


class _Numbered(ResumableBatches):
    """Batches named by (epoch, index); the data is drawn from those numbers."""

    def epoch_batches(self, epoch: int) -> list[list[Any]]:
        return [[(epoch, index)] for index in range(self.num_items)]


class _Training(Dataset[Batch]):
    def __init__(self, data: LongContextText) -> None:
        self.data = data

    def __getitem__(self, index: Any) -> Batch:
        return self.data.training_batch(*index)


class _Rows(Dataset[Batch]):
    def __init__(self, rows: list[Batch]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.rows[index]


def _first(batches: list[Batch]) -> Batch:
    return batches[0]
