"""Placement of attention heads and their KV caches on devices (after FairKV, arXiv 2502.15804)."""

from septet.kernels.placement.assignment import assign
from septet.kernels.placement.plan import HeadPlan, Replica, contiguous_plan
from septet.kernels.placement.profiles import duo_tokens, group_mean, headkv_tokens, read_profile
from septet.kernels.placement.simulation import DeviceModel, ModelShape, Simulation, simulate
from septet.kernels.placement.solver import lower_bound, solve

__all__ = [
    "DeviceModel",
    "HeadPlan",
    "ModelShape",
    "Replica",
    "Simulation",
    "assign",
    "contiguous_plan",
    "duo_tokens",
    "group_mean",
    "headkv_tokens",
    "lower_bound",
    "read_profile",
    "simulate",
    "solve",
]
