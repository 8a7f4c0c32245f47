"""The command `python -m envs.check`."""

import sys

from envs.check.command import main

if __name__ == "__main__":
    sys.exit(main())
