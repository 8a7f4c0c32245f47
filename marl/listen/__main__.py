"""The command `python -m marl.listen`."""

import sys

from marl.listen.command import main

if __name__ == "__main__":
    sys.exit(main())
