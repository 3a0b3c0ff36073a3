"""Long-context evaluation under eviction policies, and training of the small built-in model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from septet.kernels.policies import FullCache, Policy
from septet.lightning_modules.cake.checks import check_checkpoint, check_policies, check_vocabulary
from septet.lightning_modules.cake.evaluation import (
    Cell,
    at_capacities,
    compressed,
    fed_cells,
    generated_cells,
    labels_of,
    smallest,
    with_reference,
)
from septet.lightning_modules.cake.grid import CellFile, Progress, fingerprint
from septet.lightning_modules.cake.metrics import NeedleGrid
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.cake.pictures import (
    accuracy_against_bytes,
    needle_heat_map,
    prompt_pictures,
)
from septet.lightning_modules.cake.pretrained import load_pretrained
from septet.lightning_modules.cake.rows import answer_row, mean, plain, plain_spec, stored_row
from septet.lightning_modules.cake.sharded import prompt_of, sharded_cells
from septet.lightning_modules.task import Task

VALUES = ("accuracy", "kl", "recall", "kv_bytes", "peak_bytes", "tokens_per_s", "prefill_s")


class LongContextModule(Task):
    """Train a small decoder on answer tokens; test every (policy, capacity) cell on long prompts.

    Logged: ``val/accuracy`` (full cache) and, per cell, ``test/<policy>-<C>/accuracy``, ``kl`` (to the full cache),
    ``recall`` (attention mass kept), ``kv_bytes``, ``peak_bytes``, ``tokens_per_s``, ``prefill_s`` (scoring and
    trimming). With several context lengths the accuracy is also logged as ``accuracy_<length>``.

    Args:
        config: shape of the built-in model; None with ``pretrained``.
        policies: names, mappings ``{name: cake, tau1: 1.6}`` or ``Policy`` objects.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up.
        capacities: budgets; each policy with a capacity is evaluated at all of them (with ``{name: cake, model: ...}``
            the published temperatures of each); None: the policies' own.
        pretrained: a local model instead of ``config``: folder, folder with one GGUF, or "smollm2".
        cells_file: where finished cells are kept; default ``cells.jsonl`` in the run directory. Name an old file to go
            on with it.
        seed: of the weights (the data has its own).

    Raises:
        ValueError: neither or both of config and pretrained; an unknown policy or option; no policy or capacity; a head
            table of another model.
    """

    monitor: ClassVar[str] = "val/accuracy"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        config: DecoderConfig | None = None,
        policies: Sequence[Any] = (FullCache(),),
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        capacities: list[int] | None = None,
        pretrained: str | None = None,
        cells_file: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(config, Mapping):
            config = DecoderConfig(**config)
        if (config is None) == (pretrained is None):
            raise ValueError("give either config (a built-in model) or pretrained (a local one), not both or neither")
        if not policies:
            raise ValueError("policies is empty; name at least one, for example [full]")
        built = at_capacities(policies, capacities)
        self.save_hyperparameters(
            {
                "config": None if config is None else plain(asdict(config)),
                "policies": [plain_spec(policy) for policy in policies],
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "capacities": capacities,
                "pretrained": pretrained,
                "cells_file": cells_file,
                "seed": seed,
            }
        )
        self.config, self.pretrained, self.cells_file, self.seed = config, pretrained, cells_file, seed
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.policies = with_reference(built)
        if config is not None:
            check_policies(self.policies, config)
        self.labels = labels_of(self.policies)
        self.model: CausalLM | None = None  # type: ignore[assignment]
        self._grids = {label: NeedleGrid() for label in self.labels}
        self._results: dict[str, list[dict[str, Any]]] = {}
        self._timed: set[int] = set()
        self._first: Tensor | None = None

    @classmethod
    def from_hf(cls, path: str, **kwargs: Any) -> Self:
        """A module around local Llama, Mistral or Qwen2 weights; ``.model`` is ready.

        Args:
            path: a folder, a folder with one ``.gguf``, or "smollm2".
            **kwargs: of the constructor.
        """
        module = cls(pretrained=path, **kwargs)
        module.configure_model()
        return module

    def configure_metrics(self) -> None:
        """Means over an epoch; the training one travels in checkpoints, for the curriculum judges whole epochs."""
        self.train_accuracy, self.val_accuracy = MeanMetric(), MeanMetric()
        self.train_accuracy.persistent(True)

    def configure_model(self) -> None:
        """Build or load the model once; refuse data or policies that do not fit it.

        Raises:
            ValueError: token ids that the model does not know, head tables of another model.
        """
        if self.model is None and self.pretrained is not None:
            self.model = load_pretrained(self.pretrained)
            check_policies(self.policies, self.model.config)
        elif self.model is None:
            assert self.config is not None
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.model = CausalLM(self.config)
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            check_vocabulary(data, self.net.config.vocab_size, pretrained=self.pretrained)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another architecture in one line.

        Raises:
            ValueError: the checkpoint's model has another shape.
        """
        super().on_load_checkpoint(checkpoint)
        check_checkpoint(checkpoint, self.config, self.pretrained)

    @property
    def net(self) -> CausalLM:
        """The model after ``configure_model``."""
        if self.model is None:
            self.configure_model()
        assert self.model is not None
        return self.model

    # -- training ---------------------------------------------------------------------------------------------------

    def _answers(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and labels of the answer positions: ``(n, V)`` and ``(n,)``."""
        logits = self.net(batch["input_ids"], attention_mask=batch["attention_mask"])[:, :-1]
        labels = batch["labels"][:, 1:]
        chosen = labels >= 0
        return logits[chosen], labels[chosen]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy of the answer tokens."""
        logits, labels = self._answers(batch)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy.update((logits.argmax(-1) == labels).float())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["input_ids"]))
        return loss

    def on_train_epoch_end(self) -> None:
        """Let the data's curriculum judge the epoch; stop when its last stage is passed."""
        accuracy = float(self.train_accuracy.compute())
        self.train_accuracy.reset()
        self.log("train/accuracy", accuracy)
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "advance"):
            self.log("train/stage", float(getattr(data, "stage", 0)))
            if data.advance(accuracy):
                self.trainer.should_stop = True

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Answer tokens predicted right, the whole context visible."""
        logits, labels = self._answers(batch)
        self.val_accuracy.update((logits.argmax(-1) == labels).float())
        self.log("val/accuracy", self.val_accuracy, batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> Any:
        """AdamW (betas 0.9, 0.95) with linear warm-up."""
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
        )
        warmup = max(1, self.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- test -------------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Open the file of finished cells."""
        self._results = {label: [] for label in self.labels}
        self._first = None
        self._timed = set()
        for grid in self._grids.values():
            grid.reset()
        path = self.run_dir / "cells.jsonl" if self.cells_file is None else self.run_dir / self.cells_file
        self._cells = CellFile(path)
        data = getattr(self.trainer, "datamodule", None)
        self._progress = Progress(int(getattr(data, "num_test_rows", 0)))
        self._model_key = self._fingerprint()

    def _fingerprint(self) -> str:
        """Distinguishes weights in the names of cells."""
        weight = self.net.get_parameter("layers.0.self_attn.q_proj.weight")
        shape = asdict(self.net.config)
        sums = f"{float(weight.double().sum()):.10e}/{float(weight.double().abs().sum()):.10e}"
        return f"{sums}/{sorted(plain(shape).items())}/{self.trainer.precision}"

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Every prompt of the batch under every policy."""
        if self.net.shard is not None:
            self._test_sharded(batch)
            return
        computed = False
        for row in range(len(batch["input_ids"])):
            computed |= self._test_row(batch, row)
        line = self._progress.step(len(batch["input_ids"]), computed)
        if self._progress.total:
            rank_zero_info(line)

    def _test_sharded(self, batch: Mapping[str, Any]) -> None:
        """A batch on a model that is cut over processes; all ranks compute the same results."""
        cells, sizes = sharded_cells(self.net, batch, self.policies, self._stop_ids())
        for label, of_policy, per_device in zip(self.labels, cells, sizes, strict=True):
            for row, cell in enumerate(of_policy):
                self._results[label].append(self._row(cell, batch, row, label))
            for device, size in enumerate(per_device):
                self.log(f"test/{label}/kv_bytes_device{device}", size, on_epoch=True, batch_size=1)

    def _test_row(self, batch: Mapping[str, Any], row: int) -> bool:
        """One prompt; True if anything had to be computed."""
        real = batch["attention_mask"][row].bool()
        ids, labels = batch["input_ids"][row][real], batch["labels"][row][real]
        if self._first is None:
            self._first = self._prompt(ids, labels, batch)
        asked = {name: batch[name][row] for name in ("task", "answers", "all_classes", "length")}
        asked |= {"model": self._model_key, "stop": self._stop_ids(), "new": int(batch["max_new_tokens"])}
        asked["depth"] = str(float(batch["depth"][row]))
        names = [fingerprint(ids, labels, policy, asked) for policy in self.policies]
        missing = [i for i, name in enumerate(names) if self._cells.get(name) is None]
        if missing:
            chosen = [0, *(i for i in missing if i)]
            cells = self._evaluate(ids, labels, batch, row, [self.policies[i] for i in chosen])
            for i, cell in zip(chosen, cells, strict=True):
                self._cells.add(names[i], self._row(cell, batch, row, self.labels[i]))
        for label, name in zip(self.labels, names, strict=True):
            result = self._cells.cells[name]
            self._results[label].append(result)
            if result["depth"] is not None:
                values = (result["depth"], result["length"], result["accuracy"])
                self._grids[label].update(*(torch.tensor([float(v)], dtype=torch.float64) for v in values))
        return bool(missing)

    def _evaluate(
        self, ids: Tensor, labels: Tensor, batch: Mapping[str, Any], row: int, policies: Sequence[Policy]
    ) -> list[Cell]:
        if not batch["max_new_tokens"]:
            return fed_cells(self.net, ids, labels, policies)
        prompt = self._prompt(ids, labels, batch)
        length = int(batch["length"][row])
        timed = length not in self._timed
        self._timed.add(length)
        return generated_cells(self.net, prompt, policies, batch["max_new_tokens"], self._stop_ids(), timed)

    @staticmethod
    def _prompt(ids: Tensor, labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The tokens that are compressed: all before the answer, or before the first fed question ``Q key value``."""
        answer = torch.nonzero(labels >= 0).flatten()
        if not len(answer):
            return ids
        return ids[: int(answer[0]) - (0 if batch["max_new_tokens"] else 2)]

    def _stop_ids(self) -> tuple[int, ...]:
        data = getattr(self.trainer, "datamodule", None)
        return tuple(getattr(data, "stop_ids", ()))

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.trainer.datamodule.decode(tokens)  # type: ignore[attr-defined]
        return text

    def _row(self, cell: Cell, batch: Mapping[str, Any], row: int, label: str) -> dict[str, Any]:
        """A finished cell as it is stored: score and answer text included."""
        return stored_row(cell, batch, row, label, self._decode(cell.tokens) if batch["max_new_tokens"] else None)

    def on_test_epoch_end(self) -> None:
        """Log the means and draw the pictures, those of one prompt from the first prompt of the set."""
        table: dict[str, dict[str, float]] = {}
        for label, rows in self._results.items():
            table[label] = {name: mean([row[name] for row in rows]) for name in VALUES}
            lengths = sorted({row["length"] for row in rows})
            for length in lengths if len(lengths) > 1 else []:
                chosen = [row["accuracy"] for row in rows if row["length"] == length]
                table[label][f"accuracy_{length}"] = mean(chosen)
        for label, values in table.items():
            for name, value in values.items():
                if not math.isnan(value):
                    self.log(f"test/{label}/{name}", value)
        self._pictures(table)
        if self._first is not None and self.trainer.is_global_zero:
            self.draw_stages(self._first)

    def _pictures(self, table: Mapping[str, Mapping[str, float]]) -> None:
        if not any(self._results.values()):
            return
        self.save_picture("accuracy_against_bytes", accuracy_against_bytes(table))
        for label, grid in self._grids.items():
            if len(grid.rows):  # type: ignore[arg-type]
                matrix, lengths = grid.compute()
                rows = self._results[label]
                real = {n: mean([row["prompt_tokens"] for row in rows if row["length"] == n]) for n in lengths}
                self.save_picture(f"needle_{label}", needle_heat_map(matrix, lengths, label, real))

    def draw_stages(self, prompt: Tensor) -> None:
        """Draw what the policies kept of one prompt ``(T,)``, each at its smallest capacity."""
        chosen = smallest(self.policies)
        for name, figure in prompt_pictures(compressed(self.net, prompt, chosen)):
            self.save_picture(name, figure)

    # -- predict ----------------------------------------------------------------------------------------------------

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """One answer row per prompt and policy, scored where the prompt came with answers."""
        if self.net.shard is not None:
            return self._predict_sharded(batch)
        out = []
        count = batch["max_new_tokens"] or 16
        for row in range(len(batch["input_ids"])):
            real = batch["attention_mask"][row].bool()
            prompt = self._prompt(batch["input_ids"][row][real], batch["labels"][row][real], {"max_new_tokens": count})
            for cell in generated_cells(self.net, prompt, self.policies, count, self._stop_ids()):
                out.append(answer_row(cell, batch, row, self._decode(cell.tokens), len(prompt)))
        return out

    def _predict_sharded(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of rank zero; the other ranks compute along and write nothing."""
        count = batch["max_new_tokens"] or 16
        cells, _ = sharded_cells(self.net, {**batch, "max_new_tokens": count}, self.policies, self._stop_ids())
        if not self.trainer.is_global_zero:
            return []
        return [
            answer_row(cells_of[row], batch, row, self._decode(cells_of[row].tokens), len(prompt_of(batch, row)))
            for row in range(len(batch["input_ids"]))
            for cells_of in cells
        ]

    def record_fields(self) -> dict[str, Any]:
        """Model and protocol blocks of the record."""
        shape = self.net.config
        name = self.pretrained or f"decoder-{shape.n_layers}x{shape.hidden_size}"
        params = sum(p.numel() for p in self.net.parameters())
        loaded = (
            {"checkpoint": f"pretrained {self.pretrained}"} if self.pretrained and not self.trainer.ckpt_path else {}
        )
        return {
            **loaded,
            "model": {"name": name.rstrip("/").rsplit("/", 1)[-1], "family": "kv-eviction", "params": params},
            "protocol": {"policies": self.labels, "compression": "after the prompt, question included"},
        }
