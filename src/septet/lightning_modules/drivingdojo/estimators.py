"""Estimators by name."""

from __future__ import annotations

from typing import Any

from septet.lightning_modules.drivingdojo.inverse import InverseDynamicsEstimator


def build_estimator(name: str) -> tuple[Any, bool]:
    """The estimator of a name or of a checkpoint, and whether its paths are in metres.

    Raises:
        FileNotFoundError: for a checkpoint that is not there.
    """
    if name == "inverse_dynamics":
        return InverseDynamicsEstimator(), True
    return InverseDynamicsEstimator(name), True
