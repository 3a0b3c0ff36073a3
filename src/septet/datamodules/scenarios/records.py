"""Scenario records: one measured value of a model on a data set, its canonical key, and how repeats are pooled."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from septet.datamodules.scenarios.canonical import (
    ALIASES,
    canonical,
    canonical_block,
    canonical_json,
    canonical_key,
    observation_id,
    origin,
)
from septet.datamodules.scenarios.plausible import plausibility

Record = dict[str, Any]

STATES = ("claimed", "done", "failed", "quarantined", "retracted", "stale")
_QUANTITIES = {
    "criteria": ("latency", "peak", "train_s"),
    "model": ("params", "flops"),
    "acceptance": ("stars", "citations"),
}
_MAX = (
    "ap map auc acc accuracy mrr ndcg recall precision f1 ssim psnr r2 rank1 rank5 rank10 minp mpr iou miou top1 top3"
)
_MIN = "loss mae rmse mse mape smape mase wape msis crps epe fid fvd lpips nll perplexity kl regret1 regret3 gregret1"
METRIC_DIRECTION: dict[str, str] = {
    **dict.fromkeys(_MAX.split() + "ndcg1 ndcg5 tau wtau mrr1 auc1 hit hits ari nmi".split(), "max"),
    **dict.fromkeys(_MIN.split() + "nregret lratio latency_ms error".split(), "min"),
}
"""Which way is better; a metric that is not here is not ingested."""

__all__ = [
    "ALIASES",
    "METRIC_DIRECTION",
    "canonical",
    "canonical_block",
    "canonical_json",
    "canonical_key",
    "expand",
    "from_ledger",
    "newer",
    "observation_id",
    "plausibility",
    "pool",
    "read_records",
    "validate_record",
]


def _need(condition: bool, where: str, value: Any, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{where} is {value!r}: {remedy}")


def validate_record(record: Mapping[str, Any]) -> Record:
    """A normalised copy: ``value`` float, ``n`` int, names and directions present.

    Raises:
        ValueError: naming block.field and the value.
    """
    _need(isinstance(record, Mapping), "record", record, "a record is a mapping")
    copied: Record = copy.deepcopy(dict(record))
    for block, text in (("dataset", "name"), ("model", "name"), ("scenario", "task")):
        if isinstance(copied.get(block), str):
            copied[block] = {text: copied[block]}
    for block in ("scenario", "dataset", "model", "protocol", "criteria", "acceptance", "provenance"):
        _need(isinstance(copied.get(block, {}) or {}, Mapping), block, copied.get(block), "must be a mapping")
        if copied.get(block) is None and block in copied:
            copied[block] = {}
    for block, name in (
        ("scenario", "task"),
        ("scenario", "metric"),
        ("scenario", "direction"),
        ("dataset", "name"),
        ("model", "name"),
    ):
        value = (copied.get(block) or {}).get(name)
        _need(isinstance(value, str) and bool(value.strip()), f"{block}.{name}", value, "required, a non-empty text")
    _check_choices(copied)
    _check_numbers(copied)
    canonical_json(copied)
    return copied


def _check_choices(record: Record) -> None:
    scenario, state = record["scenario"], record.get("state", "done")
    _need(scenario["direction"] in ("min", "max"), "scenario.direction", scenario["direction"], "use min or max")
    _need(scenario.get("unit") in (None, "", "fraction", "percent"), "scenario.unit", scenario.get("unit"),
          "use fraction or percent, or leave it out")  # fmt: skip
    _need(state in STATES, "state", state, f"use one of {', '.join(STATES)}")
    provenance = record.get("provenance") or {}
    source = origin(provenance)
    _need(isinstance(source, str) and bool(source), "provenance.run_id", source, "give run_id or source")
    leakage = provenance.get("leakage", "none")
    _need(leakage in ("none", "suspected", "yes", None), "provenance.leakage", leakage, "use none, suspected or yes")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_numbers(record: Record) -> None:
    for name in ("value", "n", "std"):
        if hasattr(record.get(name), "item"):
            record[name] = record[name].item()
    value: Any = record.get("value")
    n: Any = record.get("n")
    if value is not None or record.get("state", "done") != "failed":
        _need(_number(value) and math.isfinite(value), "record.value", value, "required, a finite number")
        record["value"] = float(value)
    n = 1 if n is None else n
    _need(_number(n) and float(n).is_integer() and n >= 1, "record.n", n, "the number of seeds, at least 1")
    record["n"] = int(n)
    std = record.get("std")
    _need(std is None or (_number(std) and math.isfinite(std) and std >= 0), "record.std", std, "not negative")
    for block, starts in _QUANTITIES.items():
        for name, item in (record.get(block) or {}).items():
            if str(name).startswith(starts) and item is not None:
                good = _number(item) and math.isfinite(item) and item >= 0
                _need(good, f"{block}.{name}", item, "a finite number, not negative")
    licence = record["model"].get("licence")
    _need(licence is None or isinstance(licence, str), "model.licence", licence, "a text such as MIT or Apache-2.0")


def pool(observations: Iterable[tuple[int, float, float | None]]) -> tuple[int, float, float | None]:
    """Pool repeats (n_i, mean_i, std_i) into (n, mean, std) in two passes.

    ``std = sqrt((sum (n_i - 1) s_i^2 + sum n_i (x_i - mean)^2) / (n - 1))``; None for n = 1.
    """
    items = list(observations)
    n = sum(k for k, _, _ in items)
    offset = items[0][1]
    mean = offset + math.fsum(k * (x - offset) for k, x, _ in items) / n
    if n == 1:
        return 1, mean, None
    within = math.fsum((k - 1) * (s or 0.0) ** 2 for k, _, s in items)
    between = math.fsum(k * (x - mean) ** 2 for k, x, _ in items)
    return n, mean, math.sqrt((within + between) / (n - 1))


def _mapping(value: Any, name: str) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {name: value} if value else {}


def _metric(name: str) -> tuple[str, int | None] | None:
    """Metric name without stage prefix and the loader's number; None for training metrics."""
    match = re.match(r"^(?:test|val|validate)/(.+?)(?:/dataloader_idx_(\d+))?$", name)
    return (match[1], int(match[2]) if match[2] else None) if match else None


def direction_of(metric: str) -> str | None:
    """Better direction of a metric; ``cake-24/accuracy`` reads its last part, ``new_ap`` and ``ap_global`` read ap."""
    last = metric.rsplit("/", 1)[-1].casefold()
    plain = last.removeprefix("new_").removesuffix("_global")
    return METRIC_DIRECTION.get(metric) or METRIC_DIRECTION.get(last) or METRIC_DIRECTION.get(plain)


def from_ledger(row: Mapping[str, Any]) -> list[Record]:
    """Scenario records of one ledger row: one per known metric; [] unless it is a finished evaluation.

    The model's ``config_sha256`` is the one it names itself, else the row's: what differs in it is never pooled.
    ``ledger_records`` puts the sum without seeds and paths into the row where the run's configuration is at hand.
    """
    if row.get("status") != "finished" or row.get("stage") not in ("validate", "test"):
        return []
    scenario, dataset = _mapping(row.get("scenario"), "task"), _mapping(row.get("dataset"), "name")
    model = _mapping(row.get("model"), "name") or {"name": row.get("method")}
    if not (scenario.get("task") and dataset.get("name") and model.get("name")):
        return []
    if row.get("config_sha256"):
        model = {"config_sha256": row["config_sha256"], **model}
    protocol = {**(row.get("protocol") or {}), "stage": row["stage"]}
    provenance = {
        "run_id": row.get("run_id"),
        "seed": row.get("seed"),
        "commit": (row.get("git") or {}).get("commit") or row.get("commit"),
        "when": row.get("finished"),
    }
    found = []
    for name, value in sorted((row.get("metrics") or {}).items()):
        parts = _metric(name)
        direction = direction_of(parts[0]) if parts else None
        if parts is None or direction is None or value is None:
            continue
        extra = {} if parts[1] is None else {"dataloader": parts[1]}
        record = {
            "scenario": {**scenario, "metric": parts[0], "direction": direction},
            "dataset": dataset,
            "model": model,
            "protocol": {**protocol, **extra},
            "value": value,
            "criteria": _criteria(row),
            "provenance": {k: v for k, v in provenance.items() if v is not None},
        }
        found.append(validate_record(record))
    return found


def _criteria(row: Mapping[str, Any]) -> dict[str, Any]:
    """Measured cost: the row's own criteria, then its cost block."""
    cost, criteria = row.get("cost") or {}, dict(row.get("criteria") or {})
    memory = cost.get("peak_vram_bytes") or cost.get("peak_rss_bytes")
    extra = {"peak_mem_bytes": memory, "device": cost.get("device"), "eval_s": cost.get("wall_s")}
    return {**{k: v for k, v in extra.items() if v is not None}, **criteria}


def newer(record: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether a ledger row's later evaluation replaces an observation."""
    a, b = record["provenance"], old["provenance"]
    return bool(a.get("run_id") and a.get("when") and b.get("when") and str(a["when"]) > str(b["when"]))


def expand(line: Mapping[str, Any]) -> list[Record]:
    """The records of one line: itself, or the observations of an exported store entry under the entry's state.

    Raises:
        ValueError: naming block.field and the value.
    """
    if not (isinstance(line, Mapping) and isinstance(line.get("observations"), list) and "key" in line):
        return [validate_record(line)]
    state = line.get("state", "done")
    _need(state in STATES, "state", state, f"use one of {', '.join(STATES)}")
    return [validate_record(r if state == "done" else {**r, "state": state}) for r in line["observations"]]


def read_records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Validated records with ``file:line``: of a JSON Lines file, a store, or every ``*.jsonl`` in a folder.

    Lines of ``septet data export scenarios`` and stores (``.sqlite``) give their observations with the entry's state.

    Raises:
        ValueError: naming file:line and block.field.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"--records {path}: no such file or folder")
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"--records {path}: the folder holds no *.jsonl")
    for file in files:
        if file.suffix == ".sqlite":
            yield from _read_store(file)
            continue
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if line.strip():
                try:
                    found = expand(json.loads(line.decode("utf-8")))
                except UnicodeDecodeError as error:
                    raise ValueError(f"{file}:{number}: not UTF-8 text, so no JSON Lines of records") from error
                except ValueError as error:
                    raise ValueError(f"{file}:{number}: {error}") from error
                yield from ((f"{file.name}:{number}", record) for record in found)


def _read_store(path: Path) -> Iterator[tuple[str, Record]]:
    from septet.datamodules.scenarios.memory import MnemonicCenter

    with MnemonicCenter(path) as store:
        for entry in store.entries():
            yield from ((f"{path.name}:{entry['key'][:12]}", record) for record in expand(entry))
