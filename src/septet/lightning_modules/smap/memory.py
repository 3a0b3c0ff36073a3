"""The mnemonic center under the name of the method; it lives with the records in the room of the data."""

from __future__ import annotations

from septet.datamodules.scenarios.memory import IngestReport, MergeReport, MnemonicCenter, write_spool

__all__ = ["IngestReport", "MergeReport", "MnemonicCenter", "write_spool"]
