from __future__ import annotations

import pytest
from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Two nodes with two fake GPUs each; skipped loudly where SLURM is not installed."""
    reason = missing()
    if reason:
        pytest.skip(f"SKIPPED: {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
