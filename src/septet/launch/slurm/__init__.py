"""SLURM jobs: one short script per run, rendered the same way every time."""

from septet.launch.slurm.resources import Cluster, Resources, load_cluster, load_resources
from septet.launch.slurm.script import render

__all__ = ["Cluster", "Resources", "load_cluster", "load_resources", "render"]
