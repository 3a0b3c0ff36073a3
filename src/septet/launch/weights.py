"""Which weights a stage uses: said on one line, recorded, and never silently fresh."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from septet.launch.arguments import StageArguments
from septet.launch.errors import UsageError


@dataclass
class Weights:
    """The chosen checkpoint.

    Attributes:
        path: of the file; None for fresh weights.
        line: what is printed and recorded.
    """

    path: Path | None = None
    line: str | None = None

    def resume(self, run: Path) -> Path | None:
        """Where a resumed training goes on: the newer of preempt.ckpt and last.ckpt, else None."""
        files = [run / "checkpoints" / n for n in ("preempt.ckpt", "last.ckpt")]
        found = [f for f in files if f.exists()]
        return max(found, key=lambda f: f.stat().st_mtime) if found else None

    def announce(self, path: Path, *, resuming: bool) -> None:
        """Print ``weights: FILE (epoch 7, step 1200)`` on rank zero."""
        content = read_checkpoint(path)
        self.path = path
        self.line = f"{path} (epoch {content.get('epoch')}, step {content.get('global_step')})"
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            print(f"{'resume' if resuming else 'weights'}: {self.line}", flush=True)


def choose_weights(parsed: StageArguments, wanted: str | None, class_path: str) -> Weights:
    """Weights of a stage.

    Args:
        parsed: the command line.
        wanted: best, last, none, a file, or None if nothing was said.
        class_path: of the module; training-free ones need no weights.

    Raises:
        UsageError: if a trainable method would be tested with fresh weights, or the checkpoint does not exist.
    """
    inherited = os.environ.get("SEPTET_CKPT")
    if (
        inherited is not None and int(os.environ.get("LOCAL_RANK", "0")) > 0
    ):  # started by rank zero, without its options
        return Weights(path=None if inherited == "none" else Path(inherited))
    if parsed.stage == "fit" and parsed.run is not None and _only_evaluated(parsed.run):
        raise UsageError(
            f"{parsed.run} is an evaluation, there is no training to go on with: septet test --run {parsed.run}"
        )
    if wanted == "none" or (wanted is None and parsed.run is not None and _without_weights(parsed.run)):
        return Weights(line="none (fresh weights)")
    if wanted in ("best", "last") or (wanted is None and parsed.run is not None and parsed.stage != "fit"):
        if parsed.run is None:
            raise UsageError(f"--ckpt_path {wanted} needs a run: add --run RUN, or give the checkpoint's file")
        return Weights(path=_of_run(parsed.run, wanted or "best", trainable=_trainable(class_path)))
    if wanted is not None:
        if not Path(wanted).exists():
            raise UsageError(f"ckpt_path {wanted!r} is no file (best, last, none or a file)")
        return Weights(path=Path(wanted))
    if parsed.stage != "fit" and _trainable(class_path):
        raise UsageError(
            f"{parsed.stage} of a trainable method needs weights: --run RUN, --ckpt_path FILE, "
            "or --ckpt_path none for fresh ones"
        )
    return Weights(line=None if parsed.stage == "fit" else "none (training-free)")


def _without_weights(run: Path) -> bool:
    """Whether a run was an evaluation that needs no checkpoint (its configuration says ``ckpt_path: none``)."""
    import yaml

    return str(yaml.safe_load((run / "config.yaml").read_text()).get("ckpt_path")) == "none"


def _only_evaluated(run: Path) -> bool:
    """Whether a run was made by an evaluation without weights and never trained."""
    return _without_weights(run) and not any((run / "checkpoints").glob("*.ckpt"))


def _of_run(run: Path, which: str, *, trainable: bool) -> Path | None:
    folder = run / "checkpoints"
    for name in (which, "best", "last"):
        if (folder / f"{name}.ckpt").exists():
            if name != which:
                print(f"weights: {run} has no {which}.ckpt, using {name}.ckpt", flush=True)
            return folder / f"{name}.ckpt"
    if trainable:
        raise UsageError(f"{run} holds no checkpoint ({which}.ckpt); train first: septet fit --run {run}")
    return None


def _trainable(class_path: str) -> bool:
    """The class attribute ``trainable``; True where a module says nothing."""
    module, _, name = class_path.rpartition(".")
    return bool(getattr(getattr(importlib.import_module(module), name), "trainable", True))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's content safely on the CPU.

    Raises:
        UsageError: if it is no Lightning checkpoint; says what was found.
    """
    if path.is_dir():  # a sharded checkpoint
        meta = path / "meta.pt"
        return dict(torch.load(meta, weights_only=True, map_location="cpu")) if meta.is_file() else {}
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise UsageError(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        found = sorted(content)[:5] if isinstance(content, dict) else type(content).__name__
        raise UsageError(f"{path} is no Lightning checkpoint: found {found} instead of 'state_dict'")
    return content


def compare_hyperparameters(path: Path, model: Any) -> None:
    """The configuration wins: another class is an error, other values are one line each.

    Raises:
        UsageError: if the checkpoint belongs to another class.
    """
    stored = dict(read_checkpoint(path).get("hyper_parameters", {}))
    stored.pop("_instantiator", None)
    theirs = stored.pop("_class_path", None)
    if theirs is not None and theirs != model.class_path:
        raise UsageError(f"checkpoint {path} holds {theirs}, the configuration asks for {model.class_path}")
    mine = model.get("init_args") or {}
    for key, value in stored.items():
        if key in mine and _plain(mine[key]) != _plain(value):
            print(
                f"{key}: {_plain(value)} in the checkpoint, {_plain(mine[key])} in the configuration (used)", flush=True
            )


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
