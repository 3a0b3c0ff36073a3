"""Check a whole case before training: its annotation files, then whatever its model can prove about itself."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from septet.datamodules.coco.validation import validate_coco


def read_case(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The ``model`` and ``data`` of a configuration, interpolations resolved.

    Args:
        path: a file, or the name of a shipped one (``configs/pkd/smoke.yaml``).
        overrides: ``KEY=VALUE`` with dotted keys; ``model.x`` and ``data.x`` are short for ``model.init_args.x``.

    Raises:
        FileNotFoundError: neither here nor shipped.
        ValueError: no model or no data in it, or an override without ``=``.
    """
    import yaml
    from omegaconf import OmegaConf

    shipped = files("septet") / path
    file = Path(path) if Path(path).is_file() or not path.startswith("configs/") else Path(str(shipped))
    if not file.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    bad = [x for x in overrides if "=" not in x]
    if bad:
        raise ValueError(f"{bad[0]!r} is no KEY=VALUE, e.g. model.min_teacher_ap=0.3")
    content = OmegaConf.load(file)
    for override in overrides:
        key, _, value = _full(override).partition("=")
        OmegaConf.update(content, key, yaml.safe_load(value))
    case = OmegaConf.to_container(content, resolve=True)
    for block in ("model", "data"):
        if not isinstance(case, Mapping) or "class_path" not in (case.get(block) or {}):
            raise ValueError(f"{file} holds no {block} with a class_path")
    return dict(case)  # type: ignore[arg-type]


def _full(override: str) -> str:
    block, _, rest = override.partition(".")
    return f"{block}.init_args.{rest}" if block in ("model", "data") and not rest.startswith("init_args.") else override


def build(block: Mapping[str, Any]) -> Any:
    """Instantiate ``class_path`` with ``init_args``."""
    module, _, name = str(block["class_path"]).rpartition(".")
    return getattr(importlib.import_module(module), name)(**(block.get("init_args") or {}))


def verify_case(path: str, overrides: Sequence[str] = (), out: str | None = None) -> int:
    """Print what was found about a case; a model with ``verify(datamodule)`` has it called.

    Its result is printed; its ``errors`` decide, and its ``to_json()`` goes to ``out``.

    Args:
        path: see :func:`read_case`.
        overrides: see :func:`read_case`.
        out: file for the model's report.

    Returns:
        0 good, 1 the model's report has errors.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: whatever stops training: fatal problems of the data, or of building the model.
    """
    case = read_case(path, overrides)
    data = build(case["data"])
    for stage in ("fit", "test"):
        data.setup(stage)
    for split, truth in data.truth.items():
        notes = sum(not p.fatal for p in validate_coco(truth))
        counts = ", ".join(f"{len(truth[k])} {k}" for k in ("images", "annotations", "categories"))
        sys.stdout.write(f"{split}: {counts}; {len(data.datasets[split])} used, {notes} notes\n")
    sys.stdout.write(f"classes: {', '.join(data.classes)}\n")
    model = build(case["model"])
    if not hasattr(model, "verify"):
        return 0
    report = model.verify(data)
    sys.stdout.write(f"{report}\n")
    if out is not None:
        Path(out).write_text(report.to_json())
    return 1 if report.errors else 0
