"""`python -m benchmarks.competition`."""

from __future__ import annotations

import sys

from benchmarks.competition.matches import main

if __name__ == "__main__":
    sys.exit(main())
