"""``septet logs sync RUN``: upload what W&B wrote offline."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence

from septet.launch.errors import UsageError
from septet.launch.runs import find_run


def main(argv: Sequence[str]) -> int:
    """Upload the offline folders of one run; they merge into one W&B run by its id."""
    parser = argparse.ArgumentParser(prog="septet logs", description="Offline logs.")
    actions = parser.add_subparsers(dest="action", required=True)
    sync = actions.add_parser("sync", help="upload a run's offline W&B files")
    sync.add_argument("run", help="directory, run id or slug/name")
    sync.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    options = parser.parse_args(argv)
    run = find_run(options.run)
    folders = sorted(p for p in run.rglob("offline-run-*") if p.is_dir())
    if not folders:
        raise UsageError(f"{run} holds no offline W&B files (configs/logger/wandb_offline.yaml writes them)")
    for folder in folders:
        print(folder)
    if options.dry_run:
        return 0
    program = shutil.which("wandb")
    if program is None:
        raise UsageError("wandb is not installed: pip install 'septet[logging]'")
    return subprocess.run([program, "sync", "--append", *map(str, folders)], check=False).returncode
