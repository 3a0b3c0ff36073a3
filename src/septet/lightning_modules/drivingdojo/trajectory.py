"""Camera paths and everything that recovers them from video."""

from septet.lightning_modules.drivingdojo.bonnet import bonnet_mask
from septet.lightning_modules.drivingdojo.estimators import OpenCVEstimator, PycolmapEstimator
from septet.lightning_modules.drivingdojo.inverse import InverseDynamicsEstimator
from septet.lightning_modules.drivingdojo.pool import EstimatorPool
from septet.lightning_modules.drivingdojo.poses import Estimator, OracleEstimator, Trajectory

__all__ = [
    "Estimator",
    "EstimatorPool",
    "InverseDynamicsEstimator",
    "OpenCVEstimator",
    "OracleEstimator",
    "PycolmapEstimator",
    "Trajectory",
    "bonnet_mask",
]
