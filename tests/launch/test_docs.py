from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from tests.support.paths import ROOT


@pytest.mark.docs
@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Paper" in (tmp_path / "site/methods/cne_n/index.html").read_text()
    assert (tmp_path / "site/reference/index.html").stat().st_size > 5000


def test_commands_of_the_readme_exist():
    """Every `septet ...` line of the README names a command and configurations that are there."""
    from septet.launch.arguments import find_config
    from septet.launch.cli import COMMANDS, STAGES

    lines = re.findall(r"^septet (.+?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = line.split()
        assert words[0] in {**STAGES, **COMMANDS}, line
        for index, word in enumerate(words):
            if word == "-c":
                find_config(words[index + 1])


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", (ROOT / "README.md").read_text())):
        if target not in ("sure",):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE) or target == "makes", target
