"""A collected report as ``report.md`` (with a media folder), one self-contained ``report.html``, CSV and JSON."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from septet import __version__
from septet.launch.report.collect import Report, RunPage
from septet.launch.report.export import write_results
from septet.launch.report.figures import curve_figure, group_curves
from septet.launch.report.tables import shown
from septet.launch.report.views import board_view, comparison_views, not_run_view, paper_view, stages_view


@dataclass
class Picture:
    """A caption with its PNG file beside the report, also as a data URI."""

    name: str
    file: str
    uri: str


def write_report(report: Report, out: Path) -> Path:
    """Write every form and return the page's path.

    Args:
        report: what :func:`~septet.launch.report.collect.collect` found.
        out: folder, made if absent.
    """
    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    for old in (*media.glob("run[0-9]*-*.*"), *media.glob("compared-curves.png")):
        old.unlink()
    runs = [_run_view(number, page, media) for number, page in enumerate(report.runs)]
    write_results(report.records, out)
    comparison = report.comparison
    context = {
        "paper": paper_view(report.rows),
        "not_run": not_run_view(report.rows),
        "faults": report.faults,
        "boards": [(board, board_view(board, number)) for number, board in enumerate(report.boards, start=1)],
        "comparison": comparison,
        "compared": comparison_views(comparison) if comparison else [],
        "overlay": _overlay(report, media),
        "runs": runs,
        "notes": report.notes,
        "finished": sum(r.get("stage") != "fit" for r in report.records),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": __version__,
    }
    for name in ("report.md", "report.html"):
        text = _environment(html=name.endswith("html")).get_template(f"{name}.j2").render(context)
        temporary = out / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)
    return out / "report.html"


def _overlay(report: Report, media: Path) -> Picture | None:
    """Curves of the compared runs over each other."""
    content = curve_figure(report.comparison.curves) if report.comparison else None
    return _picture("compared-curves", "curves of the compared runs", content, media) if content else None


def _environment(*, html: bool) -> jinja2.Environment:
    folder = files("septet") / "launch" / "report"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    return jinja2.Environment(
        loader=loader, autoescape=html, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _run_view(number: int, page: RunPage, media: Path) -> dict[str, Any]:
    """One run for the templates; its pictures and videos are copied beside the report."""
    pictures = []
    curves = curve_figure(group_curves(page.curves))
    if curves is not None:
        pictures.append(_picture(f"run{number}-curves", "learning curves", curves, media))
    for file in page.pictures:
        pictures.append(_picture(f"run{number}-{file.stem}", file.stem.replace("_", " "), file.read_bytes(), media))
    return {
        "title": page.title,
        "table": stages_view(page.records),
        "stages": [_stage_view(stage, record) for stage, record in page.records.items()],
        "pictures": pictures,
        "videos": [_video(f"run{number}-{file.name}", file, media) for file in page.videos],
        "config": page.config,
    }


def _picture(file: str, name: str, content: bytes, media: Path) -> Picture:
    (media / f"{file}.png").write_bytes(content)
    return Picture(name, f"media/{file}.png", f"data:image/png;base64,{base64.b64encode(content).decode()}")


def _video(name: str, source: Path, media: Path) -> tuple[str, str]:
    """Name and address of a video, copied beside the report."""
    shutil.copyfile(source, media / name)
    return source.stem.replace("_", " "), f"media/{name}"


def _stage_view(stage: str, record: Mapping[str, Any]) -> dict[str, Any]:
    figures = sorted((record.get("metrics") or {}).items())
    return {
        "stage": stage,
        "metrics": {k: "not finite" if v is None else shown(v) for k, v in figures},
        "weights": "" if stage == "fit" else record.get("checkpoint") or "",
    }
