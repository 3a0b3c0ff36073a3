"""Finished cells of an evaluation grid on disk, so that a killed run goes on.

And the line that says how long it takes.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.kernels.policies import Policy, policy_spec


def fingerprint(ids: Tensor, labels: Tensor, policy: Policy, asked: Mapping[str, Any]) -> str:
    """Name of a cell: everything that its result depends on.

    Args:
        ids: prompt and answer ``(T,)``.
        labels: ``(T,)``; says where the prompt ends.
        policy: with all options.
        asked: plain values: model, generation length, stop ids, scoring task, answers, ...
    """
    digest = hashlib.blake2b(digest_size=12)
    for tensor in (ids, labels):
        digest.update(tensor.to(torch.int64).cpu().numpy().tobytes())
    digest.update(json.dumps([policy_spec(policy), asked], sort_keys=True).encode())
    return digest.hexdigest()


class CellFile:
    """JSON lines, one per finished cell, flushed as they come.

    Args:
        path: the file; an unfinished last line (a killed run) is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self.cells[row["cell"]] = row

    def get(self, cell: str) -> dict[str, Any] | None:
        """A finished cell."""
        return self.cells.get(cell)

    def add(self, cell: str, row: Mapping[str, Any]) -> None:
        """Append a finished cell."""
        self.cells[cell] = {"cell": cell, **row}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_bytes()[-1:] if self.path.is_file() else b""
        with self.path.open("a", encoding="utf-8") as file:
            if text not in (b"", b"\n"):
                file.write("\n")
            file.write(json.dumps(self.cells[cell]) + "\n")


class Progress:
    """One line per prompt with the time left, judged by the prompts that were really computed."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.computed, self.spent = total, 0, 0, 0.0
        self._mark = time.monotonic()

    def step(self, count: int, computed: bool) -> str:
        """Note ``count`` finished prompts and give the line."""
        now = time.monotonic()
        self.done += count
        if computed:
            self.computed += count
            self.spent += now - self._mark
        self._mark = now
        left = (self.total - self.done) * self.spent / self.computed if self.computed else 0.0
        return f"cake grid: {self.done}/{self.total} prompts, {left / 60:.1f} min left"
