"""Ego motion: what a camera did between two frames, in its own axes."""

from septet.kernels.egomotion.reference import (
    actions_from_poses,
    compose_actions,
    implied_yaw,
    integrate_actions,
    relative_motion,
)

__all__ = ["actions_from_poses", "compose_actions", "implied_yaw", "integrate_actions", "relative_motion"]
