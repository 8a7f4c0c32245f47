"""The command `python -m marl.teaching`."""

import sys

from marl.teaching.ease import main

if __name__ == "__main__":
    sys.exit(main())
