"""Several runs side by side: what their configurations differ in, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from septet.launch.errors import UsageError
from septet.launch.report.tables import shown

if TYPE_CHECKING:
    from septet.launch.report.collect import RunPage

Line = tuple[str, list[str]]
"""A name with one text per run; empty where a run has none."""


@dataclass
class Comparison:
    """Differences of runs.

    Attributes:
        titles: one per run.
        settings: keys of the configuration whose values are not all equal.
        figures: every metric of validation and test, and the cost of each stage.
        curves: metric name to the curves of the runs that logged it, by title.
    """

    titles: list[str]
    settings: list[Line]
    figures: list[Line]
    curves: dict[str, dict[str, list[tuple[int, float]]]]


def compare(pages: Sequence[RunPage]) -> Comparison:
    """Compare two or more runs, in the order given.

    Raises:
        UsageError: naming a configuration that is damaged.
    """
    configs = [_settings(page) for page in pages]
    keys = sorted(set().union(*configs))
    settings = [(k, [c.get(k, "") for c in configs]) for k in keys if len({c.get(k, "") for c in configs}) > 1]
    figures = [_figures(page) for page in pages]
    names = sorted(set().union(*figures))
    titles = [page.title for page in pages]
    metrics = sorted(set().union(*(page.curves for page in pages)))
    curves = {m: {page.title: page.curves[m] for page in pages if m in page.curves} for m in metrics}
    return Comparison(
        titles, settings, [(n, [f.get(n, "") for f in figures]) for n in names],
        {m: found for m, found in curves.items() if len(found) > 1},
    )  # fmt: skip


def _settings(page: RunPage) -> dict[str, str]:
    import yaml

    try:
        return flatten(yaml.safe_load(page.config) or {})
    except yaml.YAMLError as error:
        raise UsageError(f"the configuration {page.path / 'config.yaml'} is no YAML: {error}") from error


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with texts; lists are one value, except lists of components.

    >>> flatten({"model": {"lr": 0.1, "sizes": [1, 2]}})
    {'model.lr': '0.1', 'model.sizes': '[1, 2]'}
    """
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: "" if value is None else str(value)}


def _figures(page: RunPage) -> dict[str, str]:
    found = {}
    for stage, record in page.records.items():
        for name, value in (record.get("metrics") or {}).items():
            if stage != "fit":
                found[name] = "not finite" if value is None else shown(value)
        cost = record.get("cost") or {}
        found[f"{stage}: wall"] = f"{cost.get('total_wall_s') or cost.get('wall_s', 0):.1f} s"
        found[f"{stage}: seed"] = str(record.get("seed"))
    return found
