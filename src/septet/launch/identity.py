"""What makes two runs the same configuration: everything that shapes the result but the seed and the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_ELSEWHERE = frozenset({"seed", "root", "cache", "cache_dir", "workers", "num_workers", "prompts", "cells_file"})
"""Settings of model and data that say where or how fast, or which repeat; at any depth."""
_MACHINE = frozenset(
    {
        "accelerator", "devices", "num_nodes", "strategy", "logger", "callbacks", "default_root_dir", "plugins",
        "profiler", "log_every_n_steps", "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary",
        "enable_checkpointing", "limit_predict_batches", "limit_test_batches", "detect_anomaly", "benchmark",
    }
)  # fmt: skip
"""Settings of the trainer that say where a run ran and what it showed."""


def configuration_key(config: Path) -> str | None:
    """sha256 of a run's configuration without seeds, places and the machine; None without a readable file.

    Repeats of one configuration under other seeds or on another machine share it.
    """
    import yaml

    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(content, dict):
        return None
    trainer = {k: v for k, v in (content.get("trainer") or {}).items() if k not in _MACHINE}
    kept = {"trainer": trainer, "model": _shaping(content.get("model")), "data": _shaping(content.get("data"))}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _shaping(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _shaping(v) for k, v in value.items() if k not in _ELSEWHERE}
    return [_shaping(v) for v in value] if isinstance(value, list) else value
