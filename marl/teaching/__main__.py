"""The command `python -m marl.teaching`."""

import sys

from marl.teaching.command import main

if __name__ == "__main__":
    sys.exit(main())
