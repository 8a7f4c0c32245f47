"""The command `python -m marl.communication`."""

import sys

from marl.communication.command import main

if __name__ == "__main__":
    sys.exit(main())
