"""``septet doctor``: one line per capability, with the remedy for what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_EXTRAS = {
    "kv": ("transformers", "accelerate", "gguf"),
    "graph": ("torch_geometric", "numba", "lightgbm", "pandas"),
    "detection": ("mmengine", "mmdet", "pycocotools", "cv2"),
    "video": ("av", "pycolmap", "diffusers"),
    "reid": ("numba", "onnx", "onnxruntime"),
    "logging": ("wandb", "tensorboard"),
}
_TORCHVISION = {"2.11": "0.26", "2.12": "0.27", "2.13": "0.28", "2.14": "0.29", "2.15": "0.30"}


@dataclass(frozen=True)
class Finding:
    """One line: ``state`` is ok, note or broken; only a broken core fails the command."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def main(argv: Sequence[str]) -> int:
    """Print the findings; 1 only if the core is broken."""
    parser = argparse.ArgumentParser(prog="septet doctor", description="What works on this machine, and why not.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    found = examine()
    if options.json:
        print(json.dumps([asdict(f) for f in found], indent=2))
    else:
        for f in found:
            print(f"{f.state:<7} {f.name:<22} {f.detail}{'  -> ' + f.remedy if f.remedy else ''}")
    return 1 if any(f.state == "broken" for f in found) else 0


def examine() -> list[Finding]:
    """All findings; a check that itself fails becomes a broken line."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _core, _pair, _devices, _flash, _extras, _mmcv, _wandb, _slurm, _scripts, _runs, _links, _data,
    )  # fmt: skip
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except Exception as error:
            found.append(Finding(check.__name__.strip("_"), "broken", f"{type(error).__name__}: {error}"))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _core() -> list[Finding]:
    found = []
    for name in ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "scipy", "matplotlib"):
        version = _version(name)
        remedy = "" if version else "pip install -c requirements/constraints.txt -e ."
        found.append(Finding(name, "ok" if version else "broken", version or "not installed", remedy))
    if _version("lightning") in ("2.6.2", "2.6.3"):
        found.append(Finding("lightning", "broken", "a withdrawn malicious upload", "pip install 'lightning>=2.6.4'"))
    return found


def _pair() -> list[Finding]:
    """Torch and torchvision must match, or ``torchvision::nms`` does not exist."""
    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        return []
    wanted = _TORCHVISION.get(".".join(torch.split(".")[:2]))
    got = ".".join(vision.split(".")[:2])
    if wanted and wanted != got:
        return [
            Finding("torch/torchvision", "broken", f"{torch} with {vision}", f"pip install 'torchvision=={wanted}.*'")
        ]
    import torchvision

    return [Finding("torch/torchvision", "ok", f"{torch} with {torchvision.__version__}")]


def _devices() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [Finding("GPU", "note", "none usable, everything runs on the CPU", "a CUDA driver that fits this torch")]
    return [Finding("GPU", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")]


def _flash() -> list[Finding]:
    if importlib.util.find_spec("flash_attn") is not None:
        return [Finding("flash-attn", "ok", _version("flash-attn") or "installed")]
    return [Finding("flash-attn", "note", "absent: torch's own flash kernels and Triton are used")]


def _extras() -> list[Finding]:
    found = []
    for extra, modules in _EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            remedy = f"make setup (in a clone), or pip install 'septet[{extra}]'"
            found.append(Finding(f"extra {extra}", "note", f"missing {', '.join(missing)}", remedy))
        else:
            found.append(Finding(f"extra {extra}", "ok", "complete"))
    return found


def _mmcv() -> list[Finding]:
    if importlib.util.find_spec("mmcv") is None:
        return [Finding("mmcv ops", "note", "mmcv absent", "pip install --no-deps -r requirements/no-deps.txt")]
    spec = importlib.util.find_spec("mmcv")
    folder = Path(next(iter(spec.submodule_search_locations or [])))  # type: ignore[union-attr]
    compiled = any(folder.glob("_ext*.so"))
    return [Finding("mmcv ops", "ok", "compiled" if compiled else "provided by septet on torchvision.ops")]


def _wandb() -> list[Finding]:
    if importlib.util.find_spec("wandb") is None:
        return []
    from septet.launch.loggers import wandb_key

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline (no API key)")
    return [Finding("W&B mode", "ok", mode)]


def _slurm() -> list[Finding]:
    tools = [t for t in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(t)]
    if len(tools) == 4:
        return [Finding("SLURM", "ok", "sbatch, srun, squeue, scontrol")]
    return [Finding("SLURM", "note", f"found {tools or 'no tools'}", "run on a login node to submit jobs")]


def _scripts() -> list[Finding]:
    """Another package may own the script ``lightning``."""
    found = []
    owners = [
        d.name
        for d in metadata.distributions()
        for e in d.entry_points
        if e.group == "console_scripts" and e.name == "lightning"
    ]
    foreign = sorted({o for o in owners if o and o != "septet"})
    if foreign:
        remedy = "use `septet`, or reinstall septet last: pip install --force-reinstall --no-deps -e ."
        found.append(Finding("script lightning", "note", f"also claimed by {', '.join(foreign)}", remedy))
    else:
        found.append(Finding("script lightning", "ok", "an alias of septet"))
    kernels = importlib.util.find_spec("kernels")
    if kernels is not None and kernels.origin is not None:
        found.append(
            Finding("package kernels", "note", f"another distribution, {_version('kernels')}", "ours is septet.kernels")
        )
    return found


def _runs() -> list[Finding]:
    from septet.launch.runs import runs_root

    root = runs_root()
    existing = next(p for p in [root, *root.resolve().parents] if p.exists())
    if os.access(existing, os.W_OK):
        return [Finding("runs", "ok", f"{root} can be written")]
    return [Finding("runs", "broken", f"{root} cannot be written", "set SEPTET_RUNS to a folder you own")]


def _links() -> list[Finding]:
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").is_file():
        return []
    rooms = ("lightning_modules", "datamodules", "kernels", "configs", "launch")
    broken = [r for r in rooms if not (root / r).is_dir()]
    if broken:
        return [
            Finding(
                "root links", "note", f"not links here: {', '.join(broken)}", "harmless; git config core.symlinks true"
            )
        ]
    return [Finding("root links", "ok", "intact")]


def _data() -> list[Finding]:
    root = Path(os.environ.get("SEPTET_DATA", "data"))
    if root.is_dir():
        return [Finding("data root", "ok", str(root))]
    return [Finding("data root", "note", f"{root} is absent; generated data work without it", "set SEPTET_DATA")]
