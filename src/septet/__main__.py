"""``python -m septet``."""

import sys

from septet.launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
