"""The command `python -m marl.report`."""

import sys

from marl.report.command import main

if __name__ == "__main__":
    sys.exit(main())
