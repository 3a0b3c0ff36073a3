from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer
from tests.support.toy import Toy, ToyData

from septet.datamodules.scenarios.records import from_ledger
from septet.launch.latency import BatchClock
from septet.launch.record import RecordRun
from septet.launch.runs import ledger

CPU = torch.device("cpu")


def test_only_batches_after_the_warmup_are_timed(monkeypatch):
    clock = BatchClock(batches=4, warmup=2)
    now = iter([0.0, 0.001, 0.0, 0.002, 0.0, 0.003, 0.0, 0.004])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    for _ in range(9):
        clock.start(CPU)
        clock.stop()
    assert clock.criteria() == {"latency_ms_p50": 2.5, "latency_ms_p95": 3.85}


def test_too_few_batches_give_no_latency():
    clock = BatchClock()
    for _ in range(5):
        clock.start(CPU)
        clock.stop()
    assert clock.criteria() == {}


@pytest.mark.parametrize("words", [{"batches": -1}, {"warmup": -1}])
def test_negative_counts_are_refused(words):
    with pytest.raises(ValueError, match="must not be negative"):
        BatchClock(**words)


def _trainer(tmp_path, record):
    return Trainer(
        accelerator="cpu", callbacks=[record], default_root_dir=tmp_path / "own", logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip


def test_in_a_trainer_of_ones_own(tmp_path, runs):
    trainer = _trainer(tmp_path, RecordRun(latency_batches=2, warmup=0))
    trainer.test(Toy(), datamodule=ToyData(batch_size=2), verbose=False)
    record = json.loads((tmp_path / "own/record.json").read_text())
    assert (record["stage"], record["status"], record["method"]) == ("test", "finished", "user")
    assert record["model"]["params"] == sum(p.numel() for p in trainer.lightning_module.parameters())
    assert 0 < record["criteria"]["latency_ms_p50"] <= record["criteria"]["latency_ms_p95"]
    assert record["criteria"]["peak_mem_bytes"] > 1e6
    (row,) = ledger().rows()
    assert row["run_id"] == record["run_id"]
    (found,) = from_ledger({**row, "scenario": "toy", "metrics": {"test/accuracy": 0.5}})
    assert found["criteria"]["latency_ms_p95"] == record["criteria"]["latency_ms_p95"]
    assert found["model"]["params"] == record["model"]["params"]


def test_an_error_before_the_stage_leaves_nothing(tmp_path, runs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such data"):
        _trainer(tmp_path, RecordRun()).test(Toy(), datamodule=ToyData(fail="no such data"), verbose=False)
    assert not list(tmp_path.rglob("record.json"))


def test_a_failed_stage_leaves_its_record(tmp_path, runs, monkeypatch):
    def fail(*_):
        raise RuntimeError("broken step")

    monkeypatch.setattr(Toy, "test_step", fail)
    with pytest.raises(RuntimeError, match="broken step"):
        _trainer(tmp_path, RecordRun()).test(Toy(), datamodule=ToyData(), verbose=False)
    assert json.loads((tmp_path / "own/record.json").read_text())["status"] == "failed"
    assert ledger().rows() == []
