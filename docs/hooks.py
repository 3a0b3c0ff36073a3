"""Pages that stand elsewhere in the repository: the README, the guide for contributors, the methods' READMEs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from septet.launch.methods import METHODS, room

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"index.md": ROOT / "README.md", "contributing.md": ROOT / "CONTRIBUTING.md"}
    for slug in METHODS:
        pages[f"methods/{slug}.md"] = ROOT / "src/septet/lightning_modules" / room(slug) / "README.md"
    for name, source in pages.items():
        text = source.read_text() if source.is_file() else f"# {Path(name).stem}\n\nNot written yet.\n"
        files.append(File.generated(config, name, content=without_local_links(text)))
    return files


def without_local_links(text: str) -> str:
    """Links and pictures of the repository's own files become plain text."""
    return re.sub(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
