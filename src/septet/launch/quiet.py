"""Lightning's advertising lines and its srun warning are left out; everything else is shown."""

from __future__ import annotations

import logging
import os
import warnings

_NOISE = (
    "seamless cloud",
    "litlogger",
    "LitLogger",
    "lightning.ai",
    "💡",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "`Trainer.fit` stopped: `max_",
    "`weights_only` was not set",
    "Seed set to",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(word in text for word in _NOISE)


def quiet_lightning() -> None:
    """Install the filters once."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    loggers = ["lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "lightning_utilities"]
    for name in [*loggers, "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"]:
        for target in (logging.getLogger(name), *logging.getLogger(name).handlers):
            if not any(isinstance(f, _Filter) for f in target.filters):
                target.addFilter(_Filter())
    warnings.filterwarnings("ignore", message=".*srun.*command is available on your system but is not used.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
