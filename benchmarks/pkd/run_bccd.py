"""Train the BCCD cases and write their AP after every epoch: python benchmarks/pkd/run_bccd.py OUT.json CASE[:seed] ...

CASE is the stem of a file in configs/pkd. ``CASE~scaled`` is the control of the paper's point: each teacher channel is
multiplied by 10^U(-2, 2) before the loss sees it. ``CASE@8`` trains 8 epochs, ``CASE+cache`` reads the teacher's maps
from a feature cache after they were first computed. ``--trainer accelerator=gpu precision=16-mixed`` changes the
trainer of all cases. Rows are appended as they finish.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf


class Clock(Callback):
    """CPU seconds of training alone, and the AP of every epoch."""

    def __init__(self) -> None:
        self.train_s, self._start = 0.0, 0.0
        self.ap: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._start = time.process_time()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation is not training."""
        self.train_s += time.process_time() - self._start

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the epoch's AP."""
        self.ap.append(round(float(trainer.callback_metrics["val/ap"]), 4))


def scale_channels(module: Any, seed: int) -> None:
    """Multiply each channel of each teacher level by 10^U(-2, 2)."""
    teacher = module.teachers[0]
    plain = teacher.features
    generator = torch.Generator().manual_seed(seed)
    factors = [10 ** (torch.rand(c, generator=generator) * 4 - 2) for c in teacher.geometry.channels]
    teacher.features = lambda *a: [x * f.view(1, -1, 1, 1) for x, f in zip(plain(*a), factors, strict=True)]


def build(spec: dict[str, Any]) -> Any:
    """Instantiate a class_path / init_args pair."""
    module, name = spec["class_path"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**spec["init_args"])


def run(case: str, seed: int, changes: dict[str, str]) -> dict[str, Any]:
    """One training run."""
    name, _, epochs = case.partition("@")
    name, _, cache = name.partition("+")
    name, _, control = name.partition("~")
    path = files("septet.configs") / "pkd" / f"{name}.yaml"
    config: Any = OmegaConf.to_container(OmegaConf.create(path.read_text()), resolve=True)
    config["data"]["init_args"]["seed"] = seed
    config["model"]["init_args"] |= {"pictures": 0, "preflight": False}
    lightning.seed_everything(seed)
    module, data = build(config["model"]), build(config["data"])
    if control:
        module.configure_model()
        scale_channels(module, 0)
    clock = Clock()
    options = {**config["trainer"], **({"max_epochs": int(epochs)} if epochs else {}), **changes}
    with tempfile.TemporaryDirectory() as folder:
        module.cache = f"{folder}/cache" if cache else None
        trainer = Trainer(
            default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, callbacks=[clock], **options,
        )  # fmt: skip
        trainer.fit(module, data)
    row = {"case": case, "seed": seed, "val_ap": clock.ap, "train_cpu_s": round(clock.train_s, 1)}
    return row | ({"trainer": changes} if changes else {})


def main() -> None:
    """Append a row for every case that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="+", metavar="CASE[:seed]")
    parser.add_argument("--trainer", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes = dict(x.split("=", 1) for x in arguments.trainer)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    content = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"rows": []}
    content |= {
        "command": "python benchmarks/pkd/run_bccd.py OUT.json CASE:SEED ...", "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores (shared), 1 thread", "torch": torch.__version__,
        "python": platform.python_version(), "data": "BCCD val, 87 images, 160x120",
    } | ({"gpu": gpu} if gpu else {})  # fmt: skip
    for argument in arguments.cases:
        case, _, seed = argument.partition(":")
        done = [(r["case"], r["seed"], r.get("trainer", {})) for r in content["rows"]]
        if (case, int(seed or 0), changes) in done:
            continue
        content["rows"].append(run(case, int(seed or 0), changes))
        arguments.out.write_text(json.dumps(content, indent=1))
        sys.stdout.write(f"{content['rows'][-1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
