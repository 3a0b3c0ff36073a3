"""Every shipped configuration parses, and its first line is the command that runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tests.support.paths import ROOT
from tests.support.runs import septet

from septet.launch.methods import METHODS

FOLDER = ROOT / "src/septet/configs"
CASES = sorted(p for slug in METHODS for p in (FOLDER / slug).rglob("*.yaml"))
PARTS = sorted(p for kind in ("trainer", "logger", "debug") for p in (FOLDER / kind).glob("*.yaml"))


def _command(path: Path) -> list[str]:
    first = path.read_text().splitlines()[0]
    assert re.match(r"# septet (fit|test|validate|predict) ", first), f"{path}: first line is {first!r}"
    return first.removeprefix("# septet ").split()


@pytest.mark.parametrize("path", CASES + PARTS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_first_line_runs_the_file(path):
    command = _command(path)
    assert f"configs/{path.relative_to(FOLDER)}" in command


@pytest.mark.parametrize("path", CASES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_configuration_parses(path, capsys):
    command = _command(path)
    if "--ckpt_path" in command:  # a placeholder for the user's own file
        at = command.index("--ckpt_path")
        del command[at : at + 2]
    assert septet(*command, "--print_config") == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    assert parsed["model"]["class_path"].startswith("septet.")
    assert parsed["data"]["class_path"].startswith("septet.")
