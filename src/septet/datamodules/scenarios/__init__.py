"""Measured results of models on data sets: records, benches, splits and the heterogeneous graph.

Nothing here imports torch until a name that needs it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from septet.datamodules.scenarios.bench import Bench, load_bench
from septet.datamodules.scenarios.splits import Split, split
from septet.datamodules.scenarios.synthetic import generate_scenarios
from septet.datamodules.scenarios.targets import column_targets

_LAZY = {
    "ScenarioGraph": "septet.datamodules.scenarios.datamodule",
    "build_graph": "septet.datamodules.scenarios.graph",
    "assert_no_leak": "septet.datamodules.scenarios.graph",
    "LeakageError": "septet.datamodules.scenarios.graph",
}

__all__ = ["Bench", "Split", "column_targets", "generate_scenarios", "load_bench", "split", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
