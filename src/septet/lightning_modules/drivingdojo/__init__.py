"""DrivingDojo: an action-following driving world model and the AIF benchmark (NeurIPS 2024)."""

from septet.lightning_modules.drivingdojo.inverse import InverseDynamics
from septet.lightning_modules.drivingdojo.metrics import ActionInstructionFollowing
from septet.lightning_modules.drivingdojo.module import WorldModel

__all__ = ["ActionInstructionFollowing", "InverseDynamics", "WorldModel"]
