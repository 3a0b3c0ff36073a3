"""``python -m septet.lightning_modules.pkd CHECKPOINT FOLDER``: export the student of any checkpoint for mmdet."""

import argparse
import sys
from collections.abc import Sequence

from septet.lightning_modules.pkd.export import export_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``student.pth`` and ``student.py``; returns 0, or 2 after one line on wrong input."""
    parser = argparse.ArgumentParser(prog="python -m septet.lightning_modules.pkd", description=__doc__)
    parser.add_argument("checkpoint", help="of a run, e.g. RUN/checkpoints/last.ckpt")
    parser.add_argument("folder", help="gets student.pth and student.py")
    arguments = parser.parse_args(argv)
    try:
        path = export_checkpoint(arguments.checkpoint, arguments.folder)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"septet: {error}\n")
        return 2
    sys.stdout.write(f"exported: {path}\n          {path.with_suffix('.py')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
