"""LightningCLI in subclass mode, with Septet's run directory, weights and checkpoint rules."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.environments import SLURMEnvironment

from septet.launch.arguments import StageArguments
from septet.launch.callbacks import ContinueCurve, LastCheckpoint, PlainProgress, PredictionWriter
from septet.launch.errors import UsageError
from septet.launch.loggers import RunCSVLogger, bind_loggers, survive_signals
from septet.launch.messages import tidy_message
from septet.launch.methods import METHODS
from septet.launch.preemption import SafePreemption
from septet.launch.record import RecordRun
from septet.launch.runs import choose_run, ledger, remove_unused
from septet.launch.weights import choose_weights, compare_hyperparameters
from septet.lightning_modules.task import is_fast_run


class SeptetParser(LightningArgumentParser):
    """A parser whose errors are one line with the nearest known name."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise :class:`UsageError` instead of printing the usage."""
        known = {a.dest for a in getattr(self, "_actions", []) if "." in str(a.dest)}
        raise UsageError(tidy_message(message, known)) from ex


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` (``config-<stage>.yaml`` inside an existing run); overwrites only on resume."""

    def __init__(self, parser: Any, config: Any, *, target: Path, resumed: bool) -> None:
        super().__init__(parser, config, overwrite=True)
        self.target, self.resumed = target, resumed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """On rank zero, without collectives."""
        if not trainer.is_global_zero or is_fast_run(trainer) or self.already_saved:
            return
        if self.target.is_file() and not self.resumed:
            raise FileExistsError(f"{self.target} exists already; resume its run with --run or give another --name")
        text = self.parser.dump(self.config, skip_none=False)
        temporary = self.target.with_name(f".{self.target.name}.tmp")
        temporary.write_text(text)
        temporary.replace(self.target)
        for logger in trainer.loggers:
            if not isinstance(logger, RunCSVLogger):
                logger.log_hyperparams({"config": yaml.safe_load(text)})
        self.already_saved = True


class SeptetCLI(LightningCLI):
    """Parses and instantiates; :meth:`run_subcommand` runs the stage.

    Args:
        parsed: the stage's command line after look-up.
        parse_only: stop after parsing (``--help``, ``--print_config``).
    """

    def __init__(self, parsed: StageArguments, *, parse_only: bool = False) -> None:
        self.parsed, self.stage, self.parse_only = parsed, parsed.stage, parse_only
        self.is_child = int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("SLURM_PROCID", "0")) > 0
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_class=SeptetParser,
            parser_kwargs={s: {"parser_mode": "omegaconf"} for s in self.subcommands()} | {"parser_mode": "omegaconf"},
        )

    # -- parsing ----------------------------------------------------------------------------------------------------

    def _parse_ckpt_path(self) -> None:
        """The configuration wins over a checkpoint's hyper-parameters; differences are named."""
        if self.parse_only:
            return
        config = self.config[self.stage]
        from_yaml = config.get("ckpt_path")
        weights = self.parsed.weights or (str(from_yaml) if from_yaml else None)
        self.fast = bool(config.trainer.get("fast_dev_run"))
        self.slug = slug_of(config)
        self.weights = choose_weights(self.parsed, weights, config.model.class_path)
        config["ckpt_path"] = "none" if weights == "none" else None  # so that `--run` needs no weights either
        if self.weights.path is not None:
            compare_hyperparameters(self.weights.path, config.model)

    def _run_subcommand(self, subcommand: str) -> None:
        """Instantiating and running are two steps here."""

    def before_instantiate_classes(self) -> None:
        """Make the run directory and point loggers at it."""
        config = self.config[self.stage]
        if not self.fast and not self.is_child:
            ledger(self.parsed.run.parents[2] if self.parsed.run else None).check()
        self.run, self.resumed = choose_run(self.parsed.run, self.slug, self.parsed.run_name, fast=self.fast)
        resume = self.weights.resume(self.run) if self.stage == "fit" and self.resumed else None
        inherited = os.environ.get("SEPTET_CKPT")
        self.ckpt_path = (resume or self.weights.path) if inherited in (None, "none") else Path(str(inherited))
        os.environ["SEPTET_CKPT"] = str(self.ckpt_path or "none")
        if self.ckpt_path is not None:
            self.weights.announce(Path(self.ckpt_path), resuming=self.stage == "fit")
        elif self.stage == "fit" and self.resumed:
            print(f"resume: no checkpoint in {self.run}, starting at step 0", flush=True)
        tags = [self.slug, str(config.data.class_path).rsplit(".", 1)[-1]] if config.get("data") else [self.slug]
        bind_loggers(
            config.trainer.get("logger"),
            self.run,
            slug=self.slug,
            name=self.run.parent.name,
            stage=self.stage,
            tags=tags,
        )

    # -- trainer ----------------------------------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """Instantiate; a fresh run directory vanishes again if that fails."""
        try:
            super().instantiate_classes()
        except Exception:
            self.discard_run()
            raise

    def discard_run(self) -> None:
        """Remove the run directory of a run that never began; one that a launcher made keeps its script and log."""
        launched = (self.run / "slurm").is_dir()
        if self.parsed.run is None and not self.resumed and not self.is_child and not launched:
            remove_unused(self.run)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: CSV, checkpoints, record, safe preemption, progress."""
        config = dict(self._get(self.config_init, "trainer", default={}))
        in_run = self.parsed.run is not None and self.stage != "fit"
        suffix = f"-{self.stage}" if in_run else ""
        config["default_root_dir"] = str(self.run)
        config["logger"] = self._loggers(config.get("logger"), f"metrics{suffix}.csv")
        ours = str(type(self.datamodule).__module__).startswith("septet.")
        if getattr(self.datamodule, "shards_itself", ours):
            config["use_distributed_sampler"] = False
        callbacks = _listed(config.get("callbacks"))
        self.record = RecordRun(
            self.run,
            self.stage,
            self.slug,
            seed=self._get(self.config, "seed_everything"),
            in_run=in_run,
            checkpoint=self.weights.line,
        )
        target = self.run / f"config{suffix}.yaml"
        save = SaveConfig(
            self._parser(self.stage), self.config[self.stage], target=target, resumed=self.resumed or in_run
        )
        callbacks += [save, self.record, PredictionWriter(self.run)]
        if self.stage == "fit":
            callbacks += [ContinueCurve(), *self._checkpoints(callbacks, config)]
        if os.environ.get("SEPTET_LAUNCHER") == "slurm" and "SLURM_NTASKS" in os.environ:
            config["plugins"] = [*_listed(config.get("plugins")), SLURMEnvironment(auto_requeue=False)]
        callbacks += self._progress(config)
        config["callbacks"] = callbacks
        return self.trainer_class(**{**config, **kwargs})

    def _loggers(self, configured: Any, csv_name: str) -> list[Any]:
        chosen = [c for c in _listed(configured) if not isinstance(c, bool)]
        return [RunCSVLogger(self.run, csv_name), *(survive_signals(logger) for logger in chosen)]

    def _checkpoints(self, callbacks: list[Callback], config: dict[str, Any]) -> list[Callback]:
        """Best by the method's metric unless the configuration names its own; last in any case."""
        folder = self.run / "checkpoints"
        mine = [c for c in callbacks if isinstance(c, ModelCheckpoint)]
        for callback in mine:
            callback.dirpath = str(folder) if callback.dirpath is None else callback.dirpath
        if config.get("enable_checkpointing") is False:
            return []
        minutes = float(os.environ.get("SEPTET_LAST_EVERY_MINUTES", "5"))
        added: list[Callback] = [LastCheckpoint(folder / "last.ckpt", minutes)]
        if not any(isinstance(c, Checkpoint) for c in callbacks) and hasattr(self.model, "monitor"):
            added.append(
                ModelCheckpoint(
                    dirpath=folder, filename="best", monitor=self.model.monitor, mode=self.model.mode,
                    save_top_k=1, enable_version_counter=False, auto_insert_metric_name=False,
                )
            )  # fmt: skip
        restarts = int(os.environ.get("SEPTET_MAX_RESTARTS", "10"))
        return [*added, SafePreemption(max_restarts=restarts)]

    def _progress(self, config: dict[str, Any]) -> list[Callback]:
        """A rich bar at a terminal, plain lines elsewhere."""
        if config.get("enable_progress_bar") is False:
            return []
        if sys.stdout.isatty() and "SLURM_JOB_ID" not in os.environ:
            return [RichProgressBar()]
        config["enable_progress_bar"] = False
        config.setdefault("enable_model_summary", False)
        config["enable_model_summary"] = False
        return [PlainProgress()]

    # -- running ----------------------------------------------------------------------------------------------------

    def run_subcommand(self) -> None:
        """Run the stage with the chosen weights."""
        kwargs: dict[str, Any] = {"model": self.model, "ckpt_path": str(self.ckpt_path) if self.ckpt_path else None}
        if self.datamodule is not None:
            kwargs["datamodule"] = self.datamodule
        if kwargs["ckpt_path"] is not None:
            kwargs["weights_only"] = True
        if self.stage == "predict":
            kwargs["return_predictions"] = False
        if self.stage in ("test", "validate"):
            kwargs["verbose"] = False
        getattr(self.trainer, self.stage)(**kwargs)
        if self.stage in ("test", "validate") and self.trainer.is_global_zero:
            for name, value in sorted(self.trainer.callback_metrics.items()):
                print(f"{name:<40} {float(value):.6g}", flush=True)


def _listed(value: Any) -> list[Any]:
    """None, one or several as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def slug_of(config: Any) -> str:
    """The METHODS row of the model's or strategy's class; ``user`` for somebody's own."""
    strategy = config.trainer.get("strategy", "")
    if "fairkv" in str(getattr(strategy, "class_path", strategy)).lower():
        return "fairkv"
    path = str(config.model.class_path)
    parts = path.split(".")
    if parts[:2] == ["septet", "lightning_modules"] and len(parts) > 2 and parts[2] in METHODS:
        return parts[2]
    return next((m.slug for m in METHODS.values() if m.module == path), "user")
