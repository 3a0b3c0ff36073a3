"""``septet report``: Markdown and one self-contained HTML page, paper against ours, curves and pictures."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from septet.launch.errors import UsageError
from septet.launch.report.collect import collect
from septet.launch.report.render import write_report
from septet.launch.runs import find_run, runs_root


def main(argv: Sequence[str]) -> int:
    """Report on the given runs, or on the whole ledger."""
    parser = argparse.ArgumentParser(prog="septet report", description="Paper against ours, curves, pictures, cost.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="directory, run id or slug/name; none: the whole ledger")
    parser.add_argument("--out", type=Path, help="folder (default: RUN/report for one run, else runs/report)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(argv)
    directories = [find_run(run) for run in options.runs]
    if not directories and not runs_root().is_dir():
        raise UsageError(f"there are no runs under {runs_root()}; fit something first, or set SEPTET_RUNS")
    alone = len(set(directories)) == 1
    out = options.out or (directories[0] / "report" if alone else runs_root() / "report")
    report = collect(directories)
    for fault in report.faults:
        print(f"left out: {fault}")
    try:
        page = write_report(report, out)
    except OSError as error:
        raise UsageError(f"the report cannot be written to {out} ({error.strerror}); give another --out") from error
    print(f"report: {page}")
    print(f"        {page.with_suffix('.md')}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0
