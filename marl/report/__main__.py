"""The command `python -m marl.report`."""

import sys

from marl.report.run_page import main

if __name__ == "__main__":
    sys.exit(main())
