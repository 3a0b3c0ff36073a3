"""DrivingDojo: an action-following driving world model and the AIF benchmark (NeurIPS 2024)."""

from septet.lightning_modules.drivingdojo.inverse import InverseDynamics

__all__ = ["InverseDynamics"]
