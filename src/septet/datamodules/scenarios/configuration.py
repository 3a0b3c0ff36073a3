"""What a run was configured to do, as a sum that its seed, its machine and its paths do not change."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

_TRAINER = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "precision", "accumulate_grad_batches",
    "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches", "limit_test_batches", "overfit_batches",
    "fast_dev_run",
)  # fmt: skip
"""Arguments of the Trainer that move a result; devices, loggers and progress bars do not."""
_IGNORED = ("seed", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "cache_dir")


def _plain(value: Any) -> Any:
    """Without seeds, loaders' workers, empty values and folders (the last part of a path stays)."""
    if isinstance(value, dict):
        kept = {str(k): _plain(v) for k, v in value.items() if k not in _IGNORED and not str(k).endswith("_seed")}
        return {k: v for k, v in kept.items() if v not in (None, "", {}, [])}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if isinstance(value, str) else value


@lru_cache(1 << 12)
def configuration_sha256(text: str) -> str | None:
    """Sum of a saved ``config.yaml``: model, data and the length of training, the same for every seed of it.

    Left out: ``seed_everything`` and every other seed, devices, loggers, callbacks, workers and the folders of paths.

    Args:
        text: the file's content.

    Returns:
        64 hexadecimal digits; None if the text is no configuration.
    """
    import yaml

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        return None
    trainer = found.get("trainer") if isinstance(found.get("trainer"), dict) else {}
    chosen = {k: found.get(k) for k in ("model", "data", "optimizer", "lr_scheduler")}
    chosen["trainer"] = {k: v for k, v in (trainer or {}).items() if k in _TRAINER and v not in (-1, 0.0, False)}
    return hashlib.sha256(json.dumps(_plain(chosen), sort_keys=True, default=str).encode()).hexdigest()
