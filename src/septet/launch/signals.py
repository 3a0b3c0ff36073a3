"""Signals of the scheduler from the first moment of a launched process: a note, never a sudden death."""

from __future__ import annotations

import os
import signal
from types import FrameType

noted = 0
"""What has arrived so far: 0 nothing, 1 SIGTERM, 2 the requeue signal."""


def requeue_signal() -> signal.Signals:
    """``$SEPTET_REQUEUE_SIGNAL``, by default SIGUSR1."""
    return getattr(signal, os.environ.get("SEPTET_REQUEUE_SIGNAL", "SIGUSR1"), signal.SIGUSR1)


def note(number: int, frame: FrameType | None = None) -> None:
    """Handler: remember the strongest signal."""
    global noted
    noted = max(noted, 2 if number == requeue_signal() else 1)


def note_from_now_on() -> None:
    """Install the handlers in a process that the launcher started; imports and data come before training."""
    if os.environ.get("SEPTET_LAUNCHER") == "slurm":
        signal.signal(signal.SIGTERM, note)
        signal.signal(requeue_signal(), note)
