"""The mnemonic center: claims, observations, recall, exchange and snapshots over SQLite. No torch."""

from __future__ import annotations

from septet.datamodules.scenarios.memory.center import MnemonicCenter
from septet.datamodules.scenarios.memory.spool import IngestReport, MergeReport, write_spool

__all__ = ["IngestReport", "MergeReport", "MnemonicCenter", "write_spool"]
