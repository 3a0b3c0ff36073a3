"""Every shipped configuration builds its data and network and takes one finite training step."""

from __future__ import annotations

import json
import sqlite3
from importlib.resources import files

import pytest
import torch
import yaml

from septet.datamodules.scenarios import ScenarioGraph
from septet.lightning_modules.smap import SMAP


def write_ledger(path, models=5, datasets=5):
    rows = [
        {
            "run_id": f"r{d}{m}", "method": f"m{m}", "status": "finished", "stage": "test", "dataset": f"d{d}",
            "scenario": {"task": "t"}, "metrics": {"test/ap": 0.5 + 0.05 * m + 0.01 * ((d * m) % 3)}, "seed": 0,
            "criteria": {"latency_ms_p50": 1.0 + m}, "finished": "2026-11-26T05:00:00+00:00",
        }
        for d in range(datasets) for m in range(models)
    ]  # fmt: skip
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE runs (run_id TEXT, finished TEXT, record TEXT)")
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", [(r["run_id"], r["finished"], json.dumps(r)) for r in rows])
    db.close()


@pytest.mark.parametrize(
    "name", ["smoke", "traffic", "openstl", "gift_eval", pytest.param("metagl", marks=pytest.mark.slow), "ledger"]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_a_configuration_takes_a_step(name, tmp_path):
    text = (files("septet") / f"configs/smap/{name}.yaml").read_text()
    assert text.splitlines()[0] == f"# septet fit -c configs/smap/{name}.yaml"
    config = yaml.safe_load(text)
    given = config["data"]["init_args"]
    if name == "ledger":
        write_ledger(tmp_path / "ledger.sqlite")
        assert given["ledger"] == "${oc.env:SEPTET_RUNS,runs}/ledger.sqlite"
        given["ledger"] = str(tmp_path / "ledger.sqlite")
    data = ScenarioGraph(**given)
    data.setup()
    module = SMAP(**config["model"].get("init_args", {}))
    module.add_prior(data.memory, data.bench, data.part, {data.bench.group[j] for j in data.val_columns})
    torch.manual_seed(0)
    module.build(data.memory.shape)
    loss = module.loss_terms(data.query(data.train_columns[:4], train=True), 0)["loss"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert sum(float(p.grad.abs().sum()) for p in module.net.parameters() if p.grad is not None) > 0


def test_a_ledger_with_one_data_set_is_too_small(tmp_path):
    write_ledger(tmp_path / "ledger.sqlite", datasets=1)
    with pytest.raises(ValueError, match="leaves no column to train on"):
        ScenarioGraph(bench="records", ledger=str(tmp_path / "ledger.sqlite")).setup()
