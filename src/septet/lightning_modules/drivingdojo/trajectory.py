"""Camera paths and everything that recovers them from video."""

from septet.lightning_modules.drivingdojo.inverse import InverseDynamicsEstimator
from septet.lightning_modules.drivingdojo.poses import Estimator, OracleEstimator, Trajectory

__all__ = ["Estimator", "InverseDynamicsEstimator", "OracleEstimator", "Trajectory"]
