"""The command `python -m marl.evaluate`."""

import sys

from marl.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
