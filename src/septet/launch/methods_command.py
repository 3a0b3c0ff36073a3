"""``septet methods list|show``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files

from septet.launch.errors import UsageError, did_you_mean
from septet.launch.methods import METHODS, Method, room


def shipped_configs(slug: str) -> list[str]:
    """The configurations in the package's ``configs/<slug>``, smoke first."""
    folder = files("septet") / "configs" / slug
    if not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if p.name.endswith(".yaml"))
    return [f"configs/{slug}/{n}" for n in sorted(names, key=lambda n: (not n.startswith("smoke"), n))]


def main(argv: Sequence[str]) -> int:
    """List the methods, or show one with its configurations."""
    parser = argparse.ArgumentParser(prog="septet methods", description="The methods of the platform.")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="one line per method")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    show = actions.add_parser("show", help="everything about one method")
    show.add_argument("slug")
    show.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if options.action == "list":
        if options.json:
            print(json.dumps([_as_dict(m) for m in METHODS.values()], indent=2))
        else:
            for method in METHODS.values():
                print(f"{method.slug:<12} {method.title}")
        return 0
    if options.slug not in METHODS:
        raise UsageError(f"no method {options.slug!r}{did_you_mean(options.slug, METHODS)}")
    method = METHODS[options.slug]
    print(json.dumps(_as_dict(method), indent=2) if options.json else _card(method))
    return 0


def _as_dict(method: Method) -> dict[str, object]:
    return {**asdict(method), "configs": [c.removeprefix("configs/") for c in shipped_configs(method.slug)]}


def _card(method: Method) -> str:
    """A page about one method, ending with its README."""
    extra = f"pip install 'septet[{method.extra}]'" if method.extra else "none beyond the core"
    lines = [
        f"{method.slug}: {method.title}",
        f"paper:      {method.paper}",
        f"module:     {method.module}",
        f"datamodule: {method.datamodule}",
        f"extra:      {extra}",
        "configurations:",
    ]
    for config in shipped_configs(method.slug):
        first = (files("septet") / config).read_text().splitlines()[0]
        lines.append(f"  {first.removeprefix('#').strip()}")
    readme = files("septet") / "lightning_modules" / room(method.slug) / "README.md"
    if readme.is_file():
        lines += ["", readme.read_text().rstrip()]
    return "\n".join(lines)
