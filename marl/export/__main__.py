"""The command `python -m marl.export`."""

import sys

from marl.export.command import main

if __name__ == "__main__":
    sys.exit(main())
