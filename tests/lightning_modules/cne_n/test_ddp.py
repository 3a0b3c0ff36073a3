"""Two gloo processes replay the same stream: equal features and metrics, every batch scored once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def outcome(processes: int, epochs: int, folder: Path) -> dict:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(Path(__file__).with_name("ddp_run.py")), str(processes), str(epochs), str(folder)]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


@pytest.mark.slow
def test_two_processes_give_the_features_and_metrics_of_one(tmp_path) -> None:
    one, two = (outcome(n, 0, tmp_path) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path) -> None:
    assert 0 < outcome(2, 1, tmp_path)["test/ap"] <= 1
