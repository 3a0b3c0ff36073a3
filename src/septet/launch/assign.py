"""``septet assign``: which model and data set for a scenario, over records, tables and the run ledger."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from septet.launch import assign_then
from septet.launch.assign_request import CHOICES, FIELDS, request_of
from septet.launch.assign_sources import candidates
from septet.launch.assign_text import render
from septet.launch.errors import UsageError
from septet.lightning_modules.smap.baselines import NAMES
from septet.lightning_modules.smap.choose import choose

CODES = {"ok": 0, "infeasible": 3, "abstain": 4}
_EPILOG = """exit codes: 0 a choice was made; 2 wrong input; 3 no candidate keeps the limits (the nearest relaxation is
named); 4 not enough evidence (the models to measure next are named)."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="septet assign", description=__doc__, epilog=_EPILOG, allow_abbrev=False)
    _question(p.add_argument_group("question"))
    _limits(p.add_argument_group("limits"))
    p.add_argument("--scorer", choices=(*NAMES, "smap"), default="knn_shrunk", help="rule that orders the models")
    p.add_argument("--weights", default="accuracy=1", metavar="NAME=W,...",
                   help="of accuracy, efficiency, acceptance; divided by their sum (default accuracy=1)")  # fmt: skip
    p.add_argument("--max-regret", type=float, metavar="PCT",
                   help="abstain where the 80 %% conformal bound of the first choice's regret is above")  # fmt: skip
    p.add_argument("--top", type=int, default=5, help="choices shown (default 5)")
    p.add_argument("--probe", type=int, default=3, metavar="K", help="models named to measure next (default 3)")
    p.add_argument("--batch", metavar="GLOB", help="scenario files to serve at once; with --gpu-hours")
    p.add_argument("--gpu-hours", type=float, metavar="H", help="budget of training hours for --batch")
    p.add_argument("--then", choices=("fit",), help="start a fit with the configuration of the first choice")
    p.add_argument("--pictures", type=Path, help="folder for the assignment table and the Pareto plot (PNG)")
    p.add_argument("--explain", action="store_true", help="show evidence, all rejections, quarantine and protocols")
    p.add_argument("--json", action="store_true", help="print the answer as JSON")
    return p


def _question(group: Any) -> None:
    group.add_argument("--scenario", type=Path, help="YAML file of scenario fields and limits")
    for name in FIELDS:
        group.add_argument(f"--{name}", help=f"{name} of the records, as written in them")
    group.add_argument("--metric", help="required, here or in the scenario file")
    group.add_argument("--direction", choices=CHOICES["direction"], help="where records disagree which way is better")
    group.add_argument("--records", action="append", default=[],
                       help="JSON Lines file, folder of them, or store (.sqlite); repeatable")  # fmt: skip
    group.add_argument("--ledger", default=None, help="ledger of runs, or none (default runs/ledger.sqlite)")
    group.add_argument("--tables", choices=("auto", "none"), default="auto", help="whether the shipped tables count")
    group.add_argument("--datasets", default="auto", help="names, comma separated: order by the results on them")
    group.add_argument("--models", default="", help="names to choose among, comma separated (default all)")


def _limits(group: Any) -> None:
    group.add_argument("--max-latency-ms", type=float, help="p95 where recorded, else p50, of the candidate")
    group.add_argument("--max-params", type=float, help="number of parameters")
    group.add_argument("--max-memory-gb", type=float, help="peak memory in GiB")
    group.add_argument("--licence", choices=CHOICES["licence"], default=None, help="of the model (default any)")
    group.add_argument("--device", default="", help="text that a record's device must contain to bind a limit")


def main(argv: Sequence[str]) -> int:
    """Answer one question or a batch; 0 ok, 2 wrong input, 3 infeasible, 4 abstained."""
    options = parser().parse_args(list(argv))
    try:
        assign_then.check(options)
        if options.pictures is not None and options.pictures.exists() and not options.pictures.is_dir():
            raise UsageError(f"--pictures {options.pictures} is a file; name a folder")
        if options.batch or options.gpu_hours is not None:
            from septet.launch.assign_batch import batch

            return batch(options)
        request = request_of(options, options.scenario)
        records, quarantine = candidates(options, request)
        answer = {**choose(records, request), "quarantined": len(quarantine)}
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"assign: {error}") from error
    if options.pictures is not None:
        _draw(answer, options.pictures, request.limits.get("max_latency_ms"))
    print(
        json.dumps(answer, indent=1, sort_keys=True)
        if options.json
        else render(answer, records, quarantine, options.explain)
    )
    if options.then and answer["status"] == "ok":
        return assign_then.start(answer, options)
    return CODES[answer["status"]]


def _draw(answer: dict[str, Any], folder: Path, limit: float | None) -> None:
    from septet.lightning_modules.smap.charts import answer_charts

    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in answer_charts(answer, limit):
        drawn.savefig(folder / f"{name}.png", dpi=120)
